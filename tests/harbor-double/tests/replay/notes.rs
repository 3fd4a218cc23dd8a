//! Notes of the recorder on what was stored by then: waits until it is so.

use std::time::Duration;

use serde_json::{Value, json};

use super::World;

impl World {
    /// Waits until the stored artifacts are those of a note: `[(digest, type, media type, tags, references)]`.
    pub(crate) async fn await_artifacts(&mut self, note: &str, repository: &str, tuples: &str) {
        self.await_list(note, repository, &tuples_of(tuples)).await;
    }

    /// The same, of a list that is read already.
    pub(crate) async fn await_list(&mut self, note: &str, repository: &str, recorded: &Value) {
        let (project, name) = repository.split_once('/').unwrap();
        let path = format!("/projects/{project}/repositories/{}/artifacts", name.replace('/', "%2F"));
        let mut last = Value::Null;
        for _ in 0..1500 {
            let (_, found) = self.harbor.manual_request("GET", &path, None).await;
            let shape: Vec<Value> = found.as_array().into_iter().flatten().map(shape).collect();
            if self.pair(recorded, &shape) {
                // On a busy machine a state may be gone before it is looked at; the one after it stands for both.
                self.overtaken.retain(|(of, _)| of != repository);
                return;
            }
            last = json!(shape);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.overtaken.push((repository.to_owned(), format!("{note}\n    found {last}")));
    }

    /// Whether artifacts are those of a note. Siblings may come in either order, and a tag ten seconds earlier: in Harbor, too,
    /// it is a race of two timers.
    fn pair(&mut self, recorded: &Value, found: &[Value]) -> bool {
        let mut left: Vec<&Value> = found.iter().collect();
        let mut pairs = Vec::new();
        for artifact in recorded.as_array().unwrap() {
            let short = artifact[0].as_str().unwrap();
            let digest = self.digests.by_short(short);
            let children: Vec<Option<String>> = artifact[4]
                .as_array()
                .unwrap()
                .iter()
                .map(|child| self.digests.by_short(child[0].as_str().unwrap()))
                .collect();
            let fits = |found: &&Value| {
                let listed = found["children"].as_array().unwrap();
                digest.as_ref().is_none_or(|digest| found["digest"] == *digest)
                    && listed.len() == children.len()
                    && children
                        .iter()
                        .zip(listed)
                        .all(|(known, found)| known.as_ref().is_none_or(|known| found == known))
                    && (artifact[3] == json!([]) || found["tags"] == artifact[3])
            };
            let Some(at) = left.iter().position(fits) else {
                return false;
            };
            pairs.push((short, left.remove(at)["digest"].as_str().unwrap().to_owned()));
        }
        if left.is_empty() {
            for (short, found) in pairs {
                self.digests.learn_short(short, &found);
            }
        }
        left.is_empty()
    }
}

/// The lists and tuples of a note, which are written as Python does.
pub(crate) fn tuples_of(text: &str) -> Value {
    serde_json::from_str(&text.replace('\'', "\"").replace('(', "[").replace(')', "]")).unwrap()
}

fn shape(artifact: &Value) -> Value {
    let names = |list: &Value, key: &str| -> Vec<Value> {
        list.as_array().into_iter().flatten().map(|each| each[key].clone()).collect()
    };
    json!({
        "digest": artifact["digest"], "tags": names(&artifact["tags"], "name"),
        "children": names(&artifact["references"], "child_digest"),
    })
}
