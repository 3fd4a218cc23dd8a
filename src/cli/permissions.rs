//! `harbor-pilot permissions`

use std::{fmt::Write, sync::Arc};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{input, output::print, resources};
use crate::{
    controller::{
        PreviewInput,
        required_permissions::{self, Needs},
    },
    harbor::permissions::PermissionLevel,
    standalone::ManifestSet,
    text::columns,
};

const HELP: &str = "\
The command contacts neither Harbor nor a cluster. Permissions of the level `project` are for all projects (*): the robot account
creates the project of a ProxyProject, and Harbor grants no permission on a project that does not exist yet.

A robot account cannot get more permissions than its creator has. Create it as an administrator:
  harbor-pilot permissions -f harbor/ -o json |
    curl --fail -u admin -H 'Content-Type: application/json' -d @- https://harbor.example.com/api/v2.0/robots

Examples:
  harbor-pilot permissions -f harbor/
  harbor-pilot permissions -f harbor/ -o json > robot.json

Exit status:
  0  the permissions are printed
  2  an error: an invalid command line, unreadable manifests, or nothing in them needs permissions";

/// Arguments of `permissions`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: input::Arguments,
    /// HarborInstance of the account [default: the only one in the files, else `default`]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Name of the robot account, without Harbor's prefix
    #[arg(long, default_value = "harbor-pilot", value_name = "NAME")]
    name: String,
    /// Days until the robot account expires; -1: never
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "DAYS",
          value_parser = clap::value_parser!(i64).range(-1..=2_147_483_646))]
    duration: i64,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table: each permission, and the resources that need it
    Text,
    /// The body of a POST to /api/v2.0/robots
    Json,
}

/// Prints the permissions.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    permissions(arguments).and_then(|text| print(&text))
}

fn permissions(arguments: &Arguments) -> anyhow::Result<String> {
    ensure!(arguments.duration != 0, "--duration must be a number of days of at least 1, or -1");
    let (manifests, _) = resources::read(&arguments.input)?;
    let instance = instance(arguments, &manifests)?;
    let needs = required_permissions::of(&subjects(manifests), &instance);
    ensure!(
        !needs.is_empty(),
        "the files have no Registry, ProxyProject or ReplicationRule of HarborInstance {instance}"
    );
    Ok(match arguments.output {
        Output::Text => table(&needs),
        Output::Json => serde_json::to_string_pretty(&robot(&needs, &arguments.name, arguments.duration))? + "\n",
    })
}

fn instance(arguments: &Arguments, manifests: &ManifestSet) -> anyhow::Result<String> {
    let names: Vec<&str> = manifests.instances.iter().filter_map(|found| found.metadata.name.as_deref()).collect();
    match (&arguments.instance, names.as_slice()) {
        (Some(name), _) => Ok(name.clone()),
        (None, [name]) => Ok((*name).to_owned()),
        (None, []) => Ok("default".to_owned()),
        (None, several) => {
            anyhow::bail!("the files have {} HarborInstances: choose one with --instance", several.len())
        }
    }
}

fn subjects(manifests: ManifestSet) -> PreviewInput {
    fn shared<K>(objects: Vec<K>) -> Vec<Arc<K>> {
        objects.into_iter().map(Arc::new).collect()
    }
    PreviewInput {
        instances: shared(manifests.instances),
        registries: shared(manifests.registries),
        projects: shared(manifests.projects),
        rules: shared(manifests.rules),
    }
}

/// The permissions for each resource of Harbor, with the resources that need them.
fn table(needs: &Needs) -> String {
    let mut rows: Vec<[String; 4]> = Vec::new();
    for (right, who) in needs {
        let level = match right.level {
            PermissionLevel::System => "system",
            PermissionLevel::Project => "project",
        };
        let who = match who.iter().next() {
            Some(first) if who.len() > 1 => format!("{first} and {} more", who.len() - 1),
            first => first.cloned().unwrap_or_default(),
        };
        rows.push([level.to_owned(), right.resource.to_owned(), right.action.to_owned(), who]);
    }
    let mut text = columns(["LEVEL", "RESOURCE", "ACTION", "NEEDED BY"], rows);
    writeln!(text, "{} permissions; -o json prints a robot account with exactly these", needs.len()).ok();
    text
}

/// The request body that creates the robot account.
pub(super) fn robot(needs: &Needs, name: &str, duration: i64) -> Value {
    let access = |level: PermissionLevel| -> Vec<Value> {
        let rights = needs.keys().filter(|right| right.level == level);
        rights.map(|right| json!({"resource": right.resource, "action": right.action})).collect()
    };
    let levels = [("system", "/", access(PermissionLevel::System)), ("project", "*", access(PermissionLevel::Project))];
    let levels = levels.into_iter().filter(|(.., access)| !access.is_empty());
    let permissions: Vec<Value> = levels
        .map(|(kind, namespace, access)| json!({"kind": kind, "namespace": namespace, "access": access}))
        .collect();
    json!({
        "name": name, "level": "system", "duration": duration, "disable": false,
        "description": "Harbor Pilot, with the permissions that its resources need", "permissions": permissions,
    })
}
