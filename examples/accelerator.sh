#!/usr/bin/env bash
# What needs an accelerator, in order of worth. Each step leaves OUT/<name>.txt when it is done, and is passed over then;
# a call ends after MINUTES, and the next one goes on. To be called in a clone's root. No figure of an accelerator is
# among the committed ones yet.
#
# examples/accelerator.sh OUT [MINUTES [CIFAR [MNIST]]]
#
# CIFAR and MNIST are as --data and --digits of viewaug.examples.multitask_image take them; by default what is bundled.
# With REHEARSE=1 it runs on a CPU, and in miniature.
set -uo pipefail
out=${1:?where to}; minutes=${2:-9}; data=${3:-photographs}; digits=${4:-digits}
python=${PYTHON:-python}; device=${DEVICE:-cuda}; scale="--preset paper --accelerator gpu"; steps=1000
if [ -n "${REHEARSE:-}" ]; then device=cpu; scale="--preset quick --accelerator cpu"; steps=10; fi
mkdir -p "$out"
end=$((SECONDS + 60 * minutes))

step() {  # a name, and a command
    local name=$1 left=$((end - SECONDS)); shift
    [ -e "$out/$name.txt" ] && return
    [ "$left" -gt 20 ] || { echo "time is up before $name; call again"; exit 0; }
    echo "$name: $*"
    export left
    if timeout "$left" "$@" > "$out/$name.part" 2>&1; then mv "$out/$name.part" "$out/$name.txt"
    elif [ $? = 124 ]; then echo "time is up in $name, which goes on with the next call"; exit 0
    else echo "$name failed: see $out/$name.part"; fi
}

grid() {  # a preset and a device are words of their own
    # shellcheck disable=SC2086
    "$python" -m viewaug.examples.multitask_image $scale --data "$data" --digits "$digits" --overlays digits \
        --minutes "$(awk "BEGIN { print ($left - 15) / 60 }")" "$@"
}
export -f grid; export python data digits scale

step doctor "$python" -m viewaug.cli doctor
step launches "$python" -m viewaug.examples.benchmarks.launches --compile --perturbation additive mix crop
step tests "$python" -m pytest -q tests/test_devices.py
step memory "$python" -m viewaug.examples.benchmarks.memory
step scale "$python" -m viewaug.examples.benchmarks.scale
step arrays "$python" -m viewaug.examples.demo --arrays --out "$out/demo"
step estimate bash -c "grid --methods none expert learned original --estimate --out '$out/paper'"
step compiled bash -c "grid --methods none learned --compile --estimate --out '$out/paper'"
step half bash -c "grid --methods none learned --precision bf16-mixed --estimate --out '$out/paper'"
step compare "$python" -m viewaug.cli compare --data "$out/demo/digits/arrays" --out "$out/compare" --device "$device" \
    --encoders 2 --seeds 5 --steps "$steps"
for method in learned expert learned:blend+additive@steered; do
    step "paper-$method" bash -c "grid --methods $method --seeds 1 --out '$out/paper'"
done
