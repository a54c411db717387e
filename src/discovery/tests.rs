//! Sources joined: what is published, when, and what a reload leaves alone.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::discovery::TlsTrust;
use crate::time::NS_PER_SECOND;

fn now() -> Now {
    Now { wall: Wall::from_ns(NS_PER_SECOND), ..Now::default() }
}

fn group(targets: &[&str]) -> TargetGroup {
    let targets = targets.iter().map(|&target| target.to_owned()).collect();
    TargetGroup { targets, labels: Labels::new() }
}

fn settings(fixed: &[&str], files: &[&Path]) -> Settings {
    let file = |path: &&Path| FileSd {
        files: vec![path.to_string_lossy().into_owned().try_into().unwrap()],
        refresh_interval: Duration::from_millis(20),
    };
    let config = crate::config::file::parse("", Path::new("x.yaml")).unwrap();
    let modules = config.agent.unwrap().modules;
    let job = Job {
        name: "a".to_owned(),
        module: Arc::clone(&modules["echo"]),
        modules,
        static_configs: vec![group(fixed)],
        file_sd_configs: files.iter().map(file).collect(),
        http_sd_configs: Vec::new(),
        dns_sd_configs: Vec::new(),
        relabel_configs: Vec::new(),
        mesh: None,
    };
    Settings { jobs: Arc::new([job]), now }
}

fn job(settings: &mut Settings) -> &mut Job {
    &mut Arc::get_mut(&mut settings.jobs).unwrap()[0]
}

fn health(discovery: &Discovery) -> Arc<[Health]> {
    discovery.health().borrow().clone()
}

/// Waits until these are the targets.
async fn wait_for(discovery: &Discovery, expected: &[&str]) {
    let mut list = discovery.list();
    let arrived = list.wait_for(|list| {
        list.targets.iter().map(|target| target.address.as_str()).eq(expected.iter().copied())
    });
    let arrived = tokio::time::timeout(Duration::from_secs(60), arrived).await;
    let arrived = arrived.map(|it| it.is_ok());
    assert_eq!(arrived, Ok(true), "{expected:?}");
}

fn write(path: &Path, targets: &[&str]) {
    let whole = path.with_extension("new");
    fs::write(&whole, serde_json::json!([{ "targets": targets }]).to_string()).unwrap();
    fs::rename(whole, path).unwrap();
}

#[tokio::test]
async fn sources_are_joined_sorted_and_without_duplicates() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.json"), folder.path().join("b.json"));
    write(&a, &["c:1", "a:1", ""]);
    write(&b, &["b:1", "c:1", "d:1"]);
    let mut settings = settings(&["e:1", "a:1"], &[&a, &b]);
    // Where a target was found must not make it two.
    job(&mut settings).relabel_configs =
        serde_saphyr::from_str("[{source_labels: [__address__], action: drop, regex: d.*}]")
            .unwrap();
    let discovery = Discovery::start(settings);
    wait_for(&discovery, &["a:1", "b:1", "c:1", "e:1"]).await;
    // What the first file names, others name as well: the list says nothing of whether it was read.
    let mut told = discovery.health();
    let both = told.wait_for(|told| told[0].targets == 3 && told[1].targets == 3).await;
    let told = both.unwrap().clone();
    assert_eq!((&*told[0].job, &*told[0].source), ("a", &*format!("file:{}", a.display())));
    assert_eq!(told[0].last_success, Some(now().wall));
    assert!(told[0].refreshes > 0 && told[0].failures == 0);
    write(&b, &["x:1"]);
    wait_for(&discovery, &["a:1", "c:1", "e:1", "x:1"]).await;
    fs::write(&b, "[{").unwrap();
    let mut told = discovery.health();
    told.wait_for(|told| told[1].failures > 0 && told[1].error.is_some()).await.unwrap();
    assert_eq!(discovery.list().borrow().targets.len(), 4);
    write(&b, &["y:1"]);
    wait_for(&discovery, &["a:1", "c:1", "e:1", "y:1"]).await;
    told.wait_for(|told| told[1].error.is_none()).await.unwrap();
}

#[tokio::test]
async fn a_reload_keeps_equal_sources_and_publishes_nothing_half() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.json"), folder.path().join("b.json"));
    write(&a, &["a:1"]);
    write(&b, &["b:1"]);
    let mut discovery = Discovery::start(settings(&[], &[&a]));
    wait_for(&discovery, &["a:1"]).await;
    // The file is bad at the time of the reload: what it said before still counts.
    fs::write(&a, "[{").unwrap();
    let kept = discovery.sources[0].task.clone();
    let mut seen = discovery.list();
    seen.mark_unchanged();
    discovery.reload(settings(&["c:1"], &[&b, &a]));
    wait_for(&discovery, &["a:1", "b:1", "c:1"]).await;
    assert!(seen.has_changed().unwrap());
    assert_eq!(discovery.sources[1].task.id(), kept.id());
    let left = discovery.sources[0].task.clone();
    discovery.reload(settings(&["c:1"], &[&a]));
    wait_for(&discovery, &["a:1", "c:1"]).await;
    assert!(!kept.is_finished());
    while !left.is_finished() {
        tokio::task::yield_now().await;
    }
    drop(discovery);
    while !kept.is_finished() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_reload_waits_for_a_source_that_hangs_and_the_start_does_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = |timeout| HttpSd {
        url: format!("http://{}/?token=x", listener.local_addr().unwrap()).try_into().unwrap(),
        refresh_interval: Duration::from_secs(60),
        timeout,
        headers: BTreeMap::new(),
        tls_config: TlsTrust::default(),
    };
    let mut first = settings(&["a:1"], &[]);
    job(&mut first).http_sd_configs = vec![silent(Duration::from_secs(60))];
    let mut discovery = Discovery::start(first);
    wait_for(&discovery, &["a:1"]).await;
    assert!(!health(&discovery)[0].source.contains("token"));
    let mut second = settings(&["b:1"], &[]);
    job(&mut second).http_sd_configs = vec![silent(Duration::from_millis(400))];
    discovery.reload(second);
    wait_for(&discovery, &["b:1"]).await;
    assert_eq!(health(&discovery)[0].error.as_deref(), Some("no answer in 400ms"));
}

#[tokio::test]
async fn too_many_targets_together_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.json");
    write(&file, &["z:1"]);
    let discovery = Discovery::start(settings(&["a:1"], &[&file]));
    wait_for(&discovery, &["a:1", "z:1"]).await;
    let many: Vec<String> = (0..TARGETS_MAX).map(|number| format!("h:{number}")).collect();
    write(&file, &many.iter().map(String::as_str).collect::<Vec<_>>());
    let mut excess = discovery.excess();
    excess.wait_for(|excess| *excess == Some(TARGETS_MAX + 1)).await.unwrap();
    assert_eq!(discovery.list().borrow().targets.len(), 2);
    write(&file, &["y:1"]);
    wait_for(&discovery, &["a:1", "y:1"]).await;
    assert_eq!(*discovery.excess().borrow(), None);
}

#[test]
fn every_source_of_a_job_has_a_name_of_its_own() {
    let mut names: Vec<(String, ())> = Vec::new();
    for name in ["a", "b", "a", "a"] {
        names.push((unique(name, &names), ()));
    }
    let names: Vec<&str> = names.iter().map(|(name, ())| name.as_str()).collect();
    assert_eq!(names, ["a", "b", "a#2", "a#3"]);
}

proptest! {
    #[test]
    fn the_order_of_sources_does_not_matter(
        addresses in prop::collection::vec("[a-d]{0,2}", 0..12), cut in 0_usize..12,
    ) {
        let labels = |address: &String| Labels::from([("__address__".into(), address.clone())]);
        let cut = cut.min(addresses.len());
        let (left, right) = addresses.split_at(cut);
        let [left, right] = [left, right].map(|it| Arc::new(it.iter().map(labels).collect()));
        let joined = join(0, &[Arc::clone(&left), Arc::clone(&right)], &[]);
        prop_assert_eq!(&joined, &join(0, &[right, left], &[]));
        prop_assert!(joined.windows(2).all(|pair| pair[0] < pair[1]));
        let expected: HashSet<&String> = addresses.iter().filter(|it| !it.is_empty()).collect();
        prop_assert_eq!(joined.len(), expected.len());
    }
}
