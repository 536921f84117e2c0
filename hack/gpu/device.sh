#!/usr/bin/env bash
# On the machine with the GPU, from the repository root: checks, then measures, what hack/gpu/build.sh put into $GPU_FOLDER (default .gpu).
#   hack/gpu/device.sh [check|jax|rust|example|tune|bench|sanitize|racecheck]...      OUT is where results go (default: out/gpu)
set -u
from=${GPU_FOLDER:-.gpu}
out=${OUT:-out/gpu}; mkdir -p "$out"
export TINYKERNELS_NATIVE=$PWD/$from/libtinykernels_native.so PYTHONPATH=$PWD/kernels/python PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
commit=$(cat "$from"/commit 2>/dev/null || echo unknown)
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit --format=csv,noheader
peers=/tmp/peers; mkdir -p $peers
for f in fa3 vllm_c; do [ -e $from/$f.so.xz ] && [ ! -e $peers/$f.so ] && { xz -d -T4 -c $from/$f.so.xz >$peers/$f.so & }; done
cp $from/scalar_type.py $peers/ 2>/dev/null
status=0
for step in "${@:-check}"; do
  case $step in
  check) wait; [ -e $peers/vllm_c.so ] && export TINYKERNELS_PEERS=$peers
    python3 kernels/tests/gpu/check.py 2>&1 | tee "$out/check.txt"; [ "${PIPESTATUS[0]}" = 0 ] || status=1 ;;
  jax) python3 kernels/tests/gpu/check_jax.py 2>&1 | tee "$out/jax.txt"; [ "${PIPESTATUS[0]}" = 0 ] || status=1 ;;
  rust) for t in $from/tests/*; do "$t" 2>&1 | tee -a "$out/rust.txt"; [ "${PIPESTATUS[0]}" = 0 ] || status=1; done ;;
  example) "$from"/examples/decode_step "$from"/layer.safetensors 2>&1 | tee "$out/example.txt"; [ "${PIPESTATUS[0]}" = 0 ] || status=1
    for script in pytorch_layer jax_mlp; do python3 kernels/examples/$script.py 2>&1 | tee -a "$out/example.txt"; [ "${PIPESTATUS[0]}" = 0 ] || status=1; done ;;
  tune) "$from"/examples/autotune --write "$out/tuning.txt" 2>&1 | tee "$out/tune.txt"; [ "${PIPESTATUS[0]}" = 0 ] || status=1 ;;
  bench*) wait; python3 kernels/benches/gpu/bench.py --peers $peers --commit "$commit" --only "${step#bench}" 2>&1 | tee "$out/bench.jsonl"; [ "${PIPESTATUS[0]}" = 0 ] || status=1
    ! grep '^{"part"' "$out/bench.jsonl" || status=1 ;;  # a part that failed has no rows: the file of figures is not made of what is left
  sanitize)
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    for script in "check.py norm silu decode read_pages wild_pages prefill rope" memcheck.py; do
      log=$out/sanitize-${script%% *}.txt
      { timeout 240 compute-sanitizer --tool memcheck --error-exitcode 9 python3 kernels/tests/gpu/$script >"$log" 2>&1 || echo "memcheck of $script ended with $?" >>"$log"; } &
    done
    wait
    for log in "$out"/sanitize-*.txt; do tail -2 "$log"; grep -q "ERROR SUMMARY: 0 errors" "$log" || status=1; done
    unset PYTORCH_NO_CUDA_MEMORY_CACHING ;;
  racecheck)  # the gradient of attention names one place, and docs/kernels.md says why it is none
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    for part in "memcheck.py "{bf16,weight_only,sparse,low_bits,attention,sort,norm,quantise,rows,sample,prefill,primitives} "check.py "{decode,wild_pages,rope}; do
      log=$out/race-${part##* }.txt
      timeout 330 compute-sanitizer --tool racecheck --racecheck-report all python3 kernels/tests/gpu/$part >"$log" 2>&1 &
    done
    wait
    for log in "$out"/race-*.txt; do echo "$log: $(tail -1 "$log")"; [ "$log" = "$out/race-attention.txt" ] || grep -q "SUMMARY: 0 hazards" "$log" || status=1; done
    unset PYTORCH_NO_CUDA_MEMORY_CACHING ;;
  esac
done
exit $status
