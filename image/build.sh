#!/usr/bin/env bash
# Builds the image of Harbor Pilot without a container engine: a static binary, the public CA certificates, a user,
# and a bill of materials (CycloneDX). The same sources give the same digest.
#
#   image/build.sh --output DIR [--push REFERENCE] [--platform linux/amd64,linux/arm64] [--profile dist]
#
# DIR gets `oci` (an OCI layout: an index with one image for each platform), the binaries `harbor-pilot-linux-ARCH`,
# `harbor-pilot-ARCH.cdx.json` and `digest`.
# Needs cargo, cargo-cyclonedx, a C compiler for musl (image/README.md), and crane or Go.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
output='' reference='' platforms=linux/amd64 profile=dist
while [ $# -gt 0 ]; do
  case $1 in
    --output) output=$2 ;;
    --push) reference=$2 ;;
    --platform) platforms=$2 ;;
    --profile) profile=$2 ;;
    *) echo "$0: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
[ -n "$output" ] || { echo "$0: --output DIR is needed" >&2; exit 2; }
mkdir -p "$output"
output=$(cd "$output" && pwd)
cd "$root"

work=$(mktemp -d)
registry_pid=''
finish() {
  [ -z "$registry_pid" ] || kill "$registry_pid" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

version=$(cargo pkgid -p harbor-pilot | sed 's/.*[@#]//')
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)

program=$(command -v crane || true)
if [ -z "$program" ]; then
  program=$work/crane
  CGO_ENABLED=0 GOFLAGS=-mod=readonly go -C e2e/tools/crane build -trimpath -o "$program" \
    github.com/google/go-containerregistry/cmd/crane
fi
crane() { "$program" "$@" 2>"$work/crane.log" || { cat "$work/crane.log" >&2; return 1; }; }

# crane changes images in a registry only: here is one for as long as it takes.
"$program" registry serve --address 127.0.0.1:0 >"$work/registry.log" 2>&1 &
registry_pid=$!
for _ in $(seq 100); do
  port=$(sed -n 's/.*serving on port //p' "$work/registry.log")
  [ -z "$port" ] || break
  sleep 0.1
done
[ -n "$port" ] || { cat "$work/registry.log" >&2; exit 1; }
here=127.0.0.1:$port/harbor-pilot

# Packs a directory as a layer: no times, owners or order of this machine.
layer() {
  tar --create --file "$2" --directory "$1" --sort=name --mtime=@0 \
    --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --format=ustar .
}

mkdir -p "$work/base/etc/ssl/certs"
echo 'harbor-pilot:x:65532:65532::/:/sbin/nologin' >"$work/base/etc/passwd"
echo 'harbor-pilot:x:65532:' >"$work/base/etc/group"
cp "${CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}" "$work/base/etc/ssl/certs/ca-certificates.crt"
layer "$work/base" "$work/base.tar"

build() {
  local arch=$1 target=$2 compiler=$3 flags=$4 linker=$5
  local prefix=${target//-/_}
  local binary=${CARGO_TARGET_DIR:-$root/target}/$target/${profile/#dev/debug}/harbor-pilot
  # A time that changes with each commit would rebuild every C library.
  # The compiler of Debian's musl is for C only: its binaries need a loader, which the image does not have.
  env -u SOURCE_DATE_EPOCH "CC_$prefix=$compiler" "CFLAGS_$prefix=$flags" \
    RUSTFLAGS="--remap-path-prefix=$root=/harbor-pilot --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
    cargo rustc --quiet --locked -p harbor-pilot --bin harbor-pilot --target "$target" --profile "$profile" \
    --config "profile.$profile.strip='symbols'" -- -C "linker=$linker"
  if readelf --program-headers "$binary" | grep -q INTERP; then
    echo "$0: $binary is not static" >&2
    return 1
  fi

  # The path of the sources is private to this machine, and differs between machines.
  cargo cyclonedx --quiet --manifest-path Cargo.toml --format json --spec-version 1.5 --target "$target" \
    --describe binaries --no-build-deps
  sed "s|path+file://$root#|path+file:///harbor-pilot#|" harbor-pilot_bin.cdx.json >"$output/harbor-pilot-$arch.cdx.json"
  rm harbor-pilot_bin.cdx.json

  mkdir -p "$work/$arch/usr/share/sbom"
  cp "$binary" "$output/harbor-pilot-linux-$arch"
  cp "$binary" "$work/$arch/harbor-pilot"
  chmod 755 "$work/$arch/harbor-pilot"
  cp "$output/harbor-pilot-$arch.cdx.json" "$work/$arch/usr/share/sbom/harbor-pilot.cdx.json"
  layer "$work/$arch" "$work/$arch.tar"

  crane append --oci-empty-base --new_layer "$work/base.tar" --new_layer "$work/$arch.tar" --new_tag "$here:$arch" >/dev/null
  crane mutate "$here:$arch" --tag "$here:$arch" --set-platform "linux/$arch" \
    --entrypoint /harbor-pilot --user 65532:65532 --workdir / --exposed-ports 8443/tcp,8081/tcp \
    --label org.opencontainers.image.title=harbor-pilot \
    --label "org.opencontainers.image.description=Admission webhook and operator for clusters that pull through Harbor" \
    --label org.opencontainers.image.licenses=Apache-2.0 \
    --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.revision=$revision" \
    --label "org.opencontainers.image.created=$created" >/dev/null
}

# Debian has no musl-gcc for arm64, but all its parts.
CC_AMD64=${CC_AMD64:-musl-gcc}
if [ -z "${CC_ARM64:-}" ]; then
  CC_ARM64=aarch64-linux-gnu-gcc
  CFLAGS_ARM64=-specs=/usr/lib/aarch64-linux-musl/musl-gcc.specs
fi
manifests=()
for platform in ${platforms//,/ }; do
  case $platform in
    linux/amd64) build amd64 x86_64-unknown-linux-musl "$CC_AMD64" '' cc ;;
    linux/arm64) build arm64 aarch64-unknown-linux-musl "$CC_ARM64" "${CFLAGS_ARM64:-}" "$CC_ARM64" ;;
    *) echo "$0: no image for $platform" >&2; exit 2 ;;
  esac
  manifests+=(--manifest "$here:${platform#linux/}")
done

crane index append "${manifests[@]}" --tag "$here:$version" >/dev/null
rm -rf "$output/oci"
crane pull --format oci "$here:$version" "$output/oci"
crane digest "$here:$version" >"$output/digest"
[ -z "$reference" ] || crane copy "$here:$version" "$reference" >/dev/null
echo "harbor-pilot $version $(cat "$output/digest") in $output/oci"
