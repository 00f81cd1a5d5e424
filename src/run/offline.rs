//! Values of the user's files outside of a run: templates in them, with variables of the inventory and the command line.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::vars::{Layer, Scope, Stored};
use crate::diag::Diagnostic;
use crate::inventory::Inventory;
use crate::template::{Templar, Unlock};
use crate::vault::Vault;
use crate::yaml::{Key, Node, NodeValue};

/// Variables and templates, without machines.
pub struct Offline {
    templar: Templar,
    extra: Stored,
    vars: Stored,
    magic: Stored,
    shared: Map<String, Value>,
}

impl Offline {
    /// With these inventories, the variables of this host (if one is named), and those of the command line.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn new(
        inventories: &[PathBuf],
        host: Option<&str>,
        extra_vars: &[String],
        vault: &Arc<Vault>,
    ) -> Result<Offline, Vec<Diagnostic>> {
        let extra = super::extra_vars::parse(extra_vars, vault).map_err(|error| vec![error])?;
        let mut offline = Offline {
            templar: Templar::new().with_vault(Arc::clone(vault) as Arc<dyn Unlock>),
            extra,
            vars: Stored::default(),
            magic: Stored::default(),
            shared: Map::new(),
        };
        let Some(host) = host else { return Ok(offline) };
        let inventory = Inventory::load_with(inventories, Arc::clone(vault))?;
        offline.vars = inventory.vars_of(host, None).map_err(|error| vec![error])?.into_iter().collect();
        offline.magic = inventory.own_magic_of(host).into_iter().collect();
        offline.shared = inventory.shared_magic().clone();
        Ok(offline)
    }

    /// The finished value; `own` are variables of the file it stands in.
    ///
    /// # Errors
    /// A template that has no value, where it stands.
    pub fn render(&self, node: &Node, own: &[(Key, Node)]) -> Result<Value, Diagnostic> {
        let mut scope = Scope::default();
        scope.push(Layer::Raw(&self.extra));
        scope.push(Layer::Nodes(own));
        scope.push(Layer::Known(&self.magic));
        scope.push(Layer::Final(&self.shared));
        scope.push(Layer::Raw(&self.vars));
        self.node(node, &scope)
    }

    /// A text with templates, such as a file of them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn render_file(&self, text: &str, own: &[(Key, Node)]) -> Result<String, String> {
        let mut scope = Scope::default();
        scope.push(Layer::Raw(&self.extra));
        scope.push(Layer::Nodes(own));
        scope.push(Layer::Known(&self.magic));
        scope.push(Layer::Final(&self.shared));
        scope.push(Layer::Raw(&self.vars));
        self.templar.render_file(text, &scope).map_err(|error| error.to_string())
    }

    fn node(&self, node: &Node, scope: &Scope<'_>) -> Result<Value, Diagnostic> {
        let text = |text: &str, node: &Node| {
            self.templar.render(text, scope).map_err(|error| {
                let diagnostic = error.diagnostic(text, &node.span);
                if diagnostic.help.is_some() {
                    return diagnostic;
                }
                diagnostic
                    .help("variables come from the file itself, from -e, and with -i and --host from the inventory")
            })
        };
        Ok(match &node.value {
            NodeValue::String(template) => text(template, node)?,
            NodeValue::List(items) => {
                Value::Array(items.iter().map(|item| self.node(item, scope)).collect::<Result<_, _>>()?)
            }
            NodeValue::Map(entries) => {
                let mut out = Map::new();
                for (key, value) in entries {
                    let name = match text(&key.name, &Node::string(key.name.clone(), &key.span))? {
                        Value::String(name) => name,
                        other => other.to_string(),
                    };
                    out.insert(name, self.node(value, scope)?);
                }
                Value::Object(out)
            }
            other => other.to_json(),
        })
    }
}
