//! A program for Lunatic, as published, in a cluster that loses a node.

use std::path::PathBuf;

use crate::bench::{Cluster, Shape, guest};

/// Deploys the program and starts it on a node.
fn start(cluster: &Cluster, on: &str, arguments: &[&str]) {
    let module: PathBuf = guest("lunatic_cluster");
    let module = module.to_str().expect("a path of letters");
    let mut commands = vec![vec!["deploy", module]];
    let mut spawn = vec!["spawn", "lunatic_cluster", "--on", on];
    if !arguments.is_empty() {
        spawn.push("--");
        spawn.extend(arguments);
    }
    commands.push(spawn);
    for command in commands {
        let output = cluster.tidelock(&command);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
}

#[test]
fn an_unchanged_program_uses_other_nodes_and_finds_them_by_tag() {
    let cluster = Cluster::start(Shape {
        names: &["a", "b", "c"],
        settings: &[("TIDELOCK_NODE_TAGS", "zone=west&name={name}")],
        ..Shape::default()
    });
    start(&cluster, "a", &[]);
    let [a, b, c] = ["a", "b", "c"].map(|name| cluster.id(name).replace('n', ""));
    let mut west = [&a, &b, &c].map(|id| id.parse::<u64>().expect("a number"));
    west.sort_unstable();
    cluster.prints("a", &format!("west: {west:?}"));
    cluster.prints("a", &format!("west and called b: [{b}]"));
    cluster.prints("a", "lunatic cluster: all checks hold on 2 other nodes");
}

#[test]
fn an_unchanged_program_is_told_of_a_lost_node_once() {
    let mut cluster = Cluster::pair();
    start(&cluster, "a", &["wait"]);
    let there = cluster.id("b").replace('n', "");
    cluster.prints("a", &format!("ready, with a child on node {there}"));
    cluster.node_mut("b").kill();
    cluster.prints("a", "told");
    cluster.prints("a", "once");
}
