#!/usr/bin/env bash
# Everything that must hold, in one command: format, lints, all tests, with real processes and two
# judges. Ends with exit code 0, or names the step that failed. Skipped tests are listed at the end.
#
#   ./test.sh            all of it
#   ./test.sh --quick    format, lints, unit tests and the tidy rules: no cluster is started
#   ./test.sh --faults [--row N,...]
#                        every fault row, or some: a table on the terminal and in target/faults
#   ./test.sh --storm [--seed N] [--minutes M]
#                        random faults on one cluster; the seed is printed
#   ./test.sh --churn [--seed N] [--minutes M]
#                        20 applications on 8 nodes, submitted, scaled, drained and killed at random
#
# Needs Rust, a C compiler and python3. Builds into CARGO_TARGET_DIR where that is set, else target/.
set -euo pipefail
cd "$(dirname "$0")"

PYTHON_PACKAGES="boto3 ministack==1.5.33 aws-kinesis-agg==1.2.3 grpcio==1.85.1 grpcio-tools==1.85.1"
# The commit steps as points at which a test can make a driver die.
FEATURES=(--features millrace-worker/failpoints,millrace-integration-tests/failpoints)
quick=false
faults=()
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=true ;;
    # What follows is for the program, which refuses what it does not know.
    --faults) shift; faults=(--out "$PWD/target/faults" "$@"); break ;;
    --storm | --churn) faults=(--out "$PWD/target/faults" "$@"); break ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "test.sh: unknown argument $1 (next: ./test.sh --help)" >&2; exit 2 ;;
  esac
  shift
done

target="${CARGO_TARGET_DIR:-$PWD/target}"
mkdir -p "$target"
export MILLRACE_SKIPPED="$target/skipped-tests.txt"
: >"$MILLRACE_SKIPPED"

# step NAME COMMAND...: runs a step, prints how long it took, stops at the first that fails.
step() {
  local name="$1" started=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  if ! "$@"; then
    printf '\nFAILED in step: %s (next: run it alone: %s)\n' "$name" "$*" >&2
    exit 1
  fi
  printf '=== %s: %d s\n' "$name" $((SECONDS - started))
}

# The Python of the second judge, made once and kept. Without it the tests that need it are skipped;
# in CI that is a failure.
prepare_python() {
  local venv="$target/python" stamp="$target/python/packages"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$PYTHON_PACKAGES" ]; then
    # shellcheck disable=SC2086 # the packages are words
    if rm -rf "$venv" && python3 -m venv "$venv" &&
      "$venv/bin/pip" install --quiet --disable-pip-version-check $PYTHON_PACKAGES; then
      echo "$PYTHON_PACKAGES" >"$stamp"
    else
      echo "no Python with $PYTHON_PACKAGES: tests against boto3 and ministack are skipped" >&2
      [ -z "${CI:-}" ]
      return
    fi
  fi
  export MILLRACE_PYTHON="$venv/bin/python"
  "$MILLRACE_PYTHON" -c 'import boto3, ministack, aws_kinesis_agg, grpc_tools'
}

if [ ${#faults[@]} -gt 0 ]; then
  step "build" cargo build --workspace --bins --locked "${FEATURES[@]}"
  step "faults" "$target/debug/millrace-faults" "${faults[@]}"
  exit 0
fi

step "format" cargo fmt --all -- --check
step "lints" cargo clippy --workspace --all-targets --locked "${FEATURES[@]}" -- -D warnings
if $quick; then
  step "unit tests" cargo test --workspace --locked "${FEATURES[@]}" --lib --bins
  step "tidy rules" cargo test --workspace --locked "${FEATURES[@]}" --test tidy
else
  step "python" prepare_python
  step "build" cargo build --workspace --all-targets --locked "${FEATURES[@]}"
  step "tests" cargo test --workspace --locked "${FEATURES[@]}" --no-fail-fast --lib --bins --tests
fi

if [ -s "$MILLRACE_SKIPPED" ]; then
  printf '\n!!! %d SKIPPED\n' "$(wc -l <"$MILLRACE_SKIPPED")"
  cat "$MILLRACE_SKIPPED"
fi
printf '\nall steps passed in %d s\n' "$SECONDS"
