//! `template`: its parameters. Rendering is the controller's work, since variables and secrets of other hosts stay there;
//! what comes out goes to the machine as a [`copy`](super::copy).

use schemars::JsonSchema;
use serde::Deserialize;

use crate::modules::Control;
use crate::modules::params::{Flag, Mode, Text, yes};

/// Renders a template on the controller and puts the result in place, as `copy` does.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The template on the controller, looked for in the role's `templates/` first.
    pub src: String,
    /// Where the result goes; absolute. A path that ends in `/` or is a folder means a file of the template's name in it,
    /// without `.j2` or `.tera`.
    pub dest: String,
    /// Replace a file with other content. With false, only a file that is missing is made. Default: true.
    #[serde(default = "yes")]
    pub force: Flag,
    /// Keep the old content beside the file, as `NAME.~1~`, `NAME.~2~`, … Default: false.
    #[serde(default)]
    pub backup: Flag,
    /// A command that must succeed before the new content counts; `%s` stands for its path.
    pub validate: Option<String>,
    /// Permission bits, quoted: "0644". A new file gets 0644 unless told otherwise.
    pub mode: Option<Mode>,
    /// Owner, a name or a number. A new file belongs to root unless told otherwise.
    pub owner: Option<Text>,
    /// Group, a name or a number.
    pub group: Option<Text>,
}

impl Control for Template {
    const NAME: &'static str = "template";
    const SUMMARY: &'static str = "Render a template on the controller and put the result in place";
}
