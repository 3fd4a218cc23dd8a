//! A double and an upstream with a few images, to be driven by hand: `cargo run -p harbor-double --example serve -- 18080 15001`.
#![allow(clippy::print_stdout, reason = "this is a program for a terminal")]

use harbor_double::{Harbor, Image, Upstream};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut ports = std::env::args().skip(1).map(|port| port.parse().unwrap_or(0));
    let harbor = Harbor::builder().port(ports.next().unwrap_or(0));
    let upstream = Upstream::builder().port(ports.next().unwrap_or(0)).try_start().await?;
    let arches = [("linux", "amd64", None), ("linux", "arm64", Some("v8"))];
    upstream.push_image("library/nginx", "1.27", &Image::multi_arch(arches).layers([1 << 20, 8 << 20]));
    upstream.push_image("library/busybox", "1", &Image::multi_arch(arches).canonical());
    upstream.push_image("team/app", "v1", &Image::single("linux", "amd64"));
    let harbor = harbor.speed(10.0).route("registry-1.docker.io", upstream.url()).try_start().await?;
    println!("Harbor   {} (admin, Harbor12345; ten times as fast as a real one)", harbor.url());
    println!("upstream {} (also https://hub.docker.com for registries of the type docker-hub)", upstream.url());
    tokio::signal::ctrl_c().await
}
