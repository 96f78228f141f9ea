#!/usr/bin/env bash
# Profiles the CUDA path on a GPU: a timeline by Nsight Systems, or the counters of one kernel by Nsight Compute.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'EOF'
tools/profile.sh timeline train|decode|rl [arguments of bench]   a timeline of one bench (nsys), kernels by total time
tools/profile.sh kernel NAME [train|decode|rl] [arguments]       all counters of the first launches of a kernel (ncu)

For example: tools/profile.sh timeline decode --shape 0.6b --batch 64
             tools/profile.sh kernel attention_forward_128_bf16 train --shape 0.6b --batch 4 --length 1024
Results go to target/profiles. Needs nsys or ncu, which come with the CUDA toolkit, and a GPU.
EOF
}

need() {
    command -v "$1" >/dev/null && return
    echo "$1 is missing: it comes with the CUDA toolkit (or as nsight-systems, nsight-compute); add it to PATH" >&2
    exit 1
}

case "${1:-}" in
    timeline)
        need nsys
        what=${2:-train}
        shift $(($# < 2 ? $# : 2))
        mkdir -p target/profiles
        out="target/profiles/$what-$(date +%Y%m%d-%H%M%S)"
        cargo build --release
        nsys profile --trace=cuda,nvtx,cublas,osrt --output "$out" \
            target/release/patarm-train bench "$what" --device cuda --runs 2 "$@"
        nsys stats --report cuda_gpu_kern_sum --report cuda_api_sum "$out.nsys-rep"
        echo "timeline: $out.nsys-rep (open it with nsys-ui)"
        ;;
    kernel)
        need ncu
        name=${2:?"name a kernel; benches/kernels.txt lists them"}
        what=${3:-train}
        shift $(($# < 3 ? $# : 3))
        mkdir -p target/profiles
        out="target/profiles/$name-$(date +%Y%m%d-%H%M%S)"
        cargo build --release
        ncu --set full --kernel-name "$name" --launch-count 5 --export "$out" \
            target/release/patarm-train bench "$what" --device cuda --runs 1 "$@"
        ncu --import "$out.ncu-rep" --page details | head -n 200
        echo "report: $out.ncu-rep (open it with ncu-ui)"
        ;;
    *)
        usage
        [ "${1:-}" = --help ] || [ "${1:-}" = -h ] || exit 2
        ;;
esac
