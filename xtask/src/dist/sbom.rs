//! The bill of materials of a target's binary in CycloneDX 1.5: every crate that is in it, with
//! version, licence and checksum, and which needs which. Cargo's own metadata flows in, JSON flows
//! out. It names no time and no folder: the same sources give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::shell;

/// Of the binary for a target.
pub fn of(target: &str) -> Result<String> {
    let words = ["metadata", "--format-version", "1", "--locked", "--filter-platform", target];
    let metadata = serde_json::from_str(&shell::output(&mut shell::cargo(words))?)?;
    let lock = fs::read_to_string(shell::root().join("Cargo.lock"))?;
    let bill = bill(&metadata, &checksums(&lock)).context("cargo's metadata are incomplete")?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&bill)?))
}

/// By name and version, from the lock file.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let value = |key: &str| {
            let mut values = package.lines().filter_map(|line| line.strip_prefix(key));
            values.find_map(|rest| rest.strip_prefix(" = \"")?.strip_suffix('"'))
        };
        if let (Some(name), Some(version), Some(sum)) =
            (value("name"), value("version"), value("checksum"))
        {
            found.insert((name.to_owned(), version.to_owned()), sum.to_owned());
        }
    }
    found
}

/// None if a member that cargo promises is missing.
fn bill(metadata: &Value, sums: &BTreeMap<(String, String), String>) -> Option<Value> {
    let packages: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()?
        .iter()
        .filter_map(|it| Some((it["id"].as_str()?, it)))
        .collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()?
        .iter()
        .filter_map(|it| Some((it["id"].as_str()?, it)))
        .collect();
    let is_program = |package: &&&Value| package["name"] == "rttscope";
    let root = packages.values().find(is_program)?["id"].as_str()?;
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut waiting = vec![root];
    let mut edges = Vec::new();
    while let Some(id) = waiting.pop() {
        if !reached.insert(id) {
            continue;
        }
        let needs = needs(nodes.get(id)?);
        let mut names: Vec<String> =
            needs.iter().filter_map(|need| reference(packages.get(need)?)).collect();
        names.sort_unstable();
        edges.push((reference(packages.get(id)?)?, names));
        waiting.extend(needs);
    }
    edges.sort_unstable();
    let parts = reached.iter().filter(|id| **id != root);
    let mut parts =
        parts.map(|id| component(packages.get(id)?, sums)).collect::<Option<Vec<Value>>>()?;
    parts.sort_by_key(|part| part["bom-ref"].as_str().map(str::to_owned));
    let mut program = component(packages.get(root)?, sums)?;
    program["type"] = json!("application");
    let edges = edges.iter().map(|(from, to)| json!({ "ref": from, "dependsOn": to }));
    Some(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": program },
        "components": parts,
        "dependencies": edges.collect::<Vec<Value>>(),
    }))
}

/// What is in a package's binary: what its tests need is not.
fn needs(node: &Value) -> Vec<&str> {
    let Some(needs) = node["deps"].as_array() else { return Vec::new() };
    let built = needs.iter().filter(|need| {
        let kinds = need["dep_kinds"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev"))
    });
    built.filter_map(|need| need["pkg"].as_str()).collect()
}

fn component(package: &Value, sums: &BTreeMap<(String, String), String>) -> Option<Value> {
    let (name, version) = (package["name"].as_str()?, package["version"].as_str()?);
    let purl = reference(package)?;
    let mut component = json!({
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    });
    if let Some(licence) = package["license"].as_str() {
        // A slash is what was written before SPDX had a word for it.
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    if let Some(sum) = sums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    Some(component)
}

/// Its package URL, which names it everywhere in the bill.
fn reference(package: &Value) -> Option<String> {
    Some(format!("pkg:cargo/{}@{}", package["name"].as_str()?, package["version"].as_str()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    fn metadata() -> Value {
        let package = |name: &str| {
            let id = format!("id of {name}");
            json!({ "id": id, "name": name, "version": "1.2.3", "license": "MIT/ISC" })
        };
        let need = |name: &str, kind: Value| {
            let id = format!("id of {name}");
            json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] })
        };
        json!({
            "packages": [package("rttscope"), package("used"), package("deep"), package("tests")],
            "resolve": { "nodes": [
                { "id": "id of rttscope", "deps": [
                    need("used", Value::Null), need("tests", json!("dev")) ] },
                { "id": "id of used", "deps": [need("deep", json!("build"))] },
                { "id": "id of deep", "deps": [need("used", Value::Null)] },
                { "id": "id of tests", "deps": [] },
            ] },
        })
    }

    #[test]
    fn what_is_in_the_binary_is_listed_and_what_tests_it_is_not() {
        let lock = "[[package]]\nname = \"used\"\nversion = \"1.2.3\"\nchecksum = \"ab12\"\n";
        let bill = bill(&metadata(), &checksums(lock)).unwrap();
        let parts = bill["components"].as_array().unwrap();
        let names: Vec<&str> = parts.iter().map(|part| part["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["deep", "used"]);
        assert_eq!(parts[1]["hashes"][0]["content"], "ab12");
        assert_eq!(parts[1]["licenses"][0]["expression"], "MIT OR ISC");
        assert_eq!(bill["metadata"]["component"]["name"], "rttscope");
        let edges = bill["dependencies"].as_array().unwrap();
        assert_eq!(edges.len(), 3);
        let of_program = edges.iter().find(|edge| edge["ref"] == "pkg:cargo/rttscope@1.2.3");
        assert_eq!(of_program.unwrap()["dependsOn"], json!(["pkg:cargo/used@1.2.3"]));
    }

    #[test]
    fn metadata_without_packages_are_refused() {
        assert!(bill(&json!({}), &BTreeMap::new()).is_none());
    }
}
