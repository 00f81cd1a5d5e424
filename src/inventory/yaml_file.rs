//! YAML inventories: groups with `hosts`, `vars` and `children`.

use std::sync::Arc;

use serde_json::Map;

use super::build::{Builder, GroupId};
use crate::diag::{Diagnostic, Source};
use crate::yaml::{self, Key, Node, NodeValue};

const KEYS: [&str; 3] = ["hosts", "vars", "children"];

/// Reads a YAML (or JSON) inventory.
pub(super) fn read(source: &Arc<Source>, build: &mut Builder) {
    let root = match yaml::parse_one(source) {
        Ok(root) => root,
        Err(error) => return build.errors.push(error),
    };
    if let Some((key, _)) = root.as_map().into_iter().flatten().find(|(key, _)| key.name == "plugin") {
        let error = Diagnostic::error("inventory plugins are not supported yet").at(&key.span);
        return build.errors.push(error.help("write the hosts into an INI or YAML inventory"));
    }
    for (key, group) in entries(&root, "an inventory must be a map of groups", build) {
        if build.check_group_name(&key.name, &key.span) {
            read_group(build.group(&key.name), &key.name, group, build);
        }
    }
}

/// The entries of a map; nothing is an empty one, and anything else an error.
fn entries<'a>(node: &'a Node, expected: &str, build: &mut Builder) -> &'a [(Key, Node)] {
    match &node.value {
        NodeValue::Null => &[],
        NodeValue::Map(entries) => entries,
        _ => {
            let error = Diagnostic::error(format!("{expected}, and this is {}", node.kind_name())).at(&node.span);
            build.errors.push(error);
            &[]
        }
    }
}

/// The depth of a tree of YAML is limited, so this recursion is.
fn read_group(id: GroupId, name: &str, node: &Node, build: &mut Builder) {
    for (part, node) in entries(node, &format!("the group `{name}` must be a map of hosts, vars and children"), build) {
        match part.name.as_str() {
            "hosts" => read_hosts(id, name, node, build),
            "vars" => {
                for (key, value) in entries(node, &format!("`vars` of the group `{name}` must be a map"), build) {
                    if build.check_variable_name(&key.name, &key.span) {
                        build.group_var(id, &key.name, value.to_json(), &value.span);
                    }
                }
            }
            "children" => {
                let what = format!("`children` of the group `{name}` must be a map of groups");
                for (key, child) in entries(node, &what, build) {
                    if build.check_group_name(&key.name, &key.span) {
                        let child_id = build.group(&key.name);
                        build.child(id, child_id, key.span.clone());
                        read_group(child_id, &key.name, child, build);
                    }
                }
            }
            other => {
                let error = Diagnostic::error(format!("unknown key `{other}` in the group `{name}`"))
                    .at(&part.span)
                    .help("a group has `hosts`, `vars` and `children`; groups in it stand under `children`")
                    .nearest(other, KEYS);
                build.errors.push(error);
            }
        }
    }
}

fn read_hosts(group: GroupId, name: &str, node: &Node, build: &mut Builder) {
    // One host may be written without a map, as in Ansible.
    if let Some(host) = node.as_str() {
        return build.add_hosts(group, host, &node.span, Map::new());
    }
    let what = format!("`hosts` of the group `{name}` must be a map with a key for each host (`ws01:`)");
    for (key, node) in entries(node, &what, build) {
        let mut vars = Map::new();
        let what = format!("the variables of the host `{}` must be a map", key.name);
        for (variable, value) in entries(node, &what, build) {
            if build.check_variable_name(&variable.name, &variable.span) {
                vars.insert(variable.name.clone(), value.to_json());
            }
        }
        build.add_hosts(group, &key.name, &key.span, vars);
    }
}
