//! The manifests that a newcomer applies.

use harbor_pilot_e2e::cluster::shared;

#[tokio::test]
async fn the_examples_are_applied_and_each_becomes_ready() {
    let cluster = shared().await.unwrap();
    cluster.apply_examples().await.unwrap();
}
