//! `schema`.

use serde_json::{Map, Value};

use super::ExitStatus;
use super::options::{SchemaKind, SchemaOptions};
use crate::modules;

pub(super) fn schema(options: &SchemaOptions) -> ExitStatus {
    let value = match options.what {
        SchemaKind::Events => crate::report::json::schema().to_value(),
        SchemaKind::Modules => {
            let all: Map<String, Value> =
                modules::TABLE.iter().map(|entry| (entry.name.to_string(), (entry.schema)().to_value())).collect();
            Value::Object(all)
        }
    };
    match serde_json::to_string_pretty(&value) {
        Ok(text) => {
            println!("{text}");
            ExitStatus::Fine
        }
        Err(error) => {
            eprintln!("can't print the schema: {error}");
            ExitStatus::Wrong
        }
    }
}
