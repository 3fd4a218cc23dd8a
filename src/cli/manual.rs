//! `harbor-pilot completions` and `harbor-pilot man`: shell completions and manual pages.

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harbor-pilot completions bash > /etc/bash_completion.d/harbor-pilot
  harbor-pilot completions zsh > \"${fpath[1]}/_harbor-pilot\"
  harbor-pilot completions fish > ~/.config/fish/completions/harbor-pilot.fish")]
pub(super) struct Completions {
    /// The shell of the script
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harbor-pilot man | man -l -
  harbor-pilot man --dir /usr/local/share/man/man1")]
pub(super) struct Pages {
    /// Directory for harbor-pilot.1 and a page for each command; it is created if it does not exist
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the completions of one shell.
pub(super) fn completions(arguments: &Completions) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "harbor-pilot", &mut script);
    super::output::print(&String::from_utf8(script).context("the completions are not UTF-8")?)
}

/// Prints the manual page, or writes all pages to a directory.
pub(super) fn man(arguments: &Pages) -> anyhow::Result<()> {
    let mut command = Cli::command();
    command.build();
    let Some(directory) = &arguments.dir else {
        return super::output::print(&page(&command)?);
    };
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let of_commands = command.get_subcommands().filter(|command| command.get_name() != "help");
    for command in of_commands.chain([&command]) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        let file = directory.join(format!("{name}.1"));
        fs::write(&file, page(command)?).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn page(command: &clap::Command) -> anyhow::Result<String> {
    // The page's name is `harbor-pilot-warm`; the command line in it is `harbor-pilot warm`.
    let mut page = Vec::new();
    Man::new(command.clone().disable_help_subcommand(true)).render(&mut page).context("cannot render the page")?;
    String::from_utf8(page).context("the page is not UTF-8")
}
