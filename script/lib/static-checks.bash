# Sourced by the scripts beside it, in the root of the repository, which declare the array `failed`.

# run_check NAME COMMAND...: runs it, and remembers its name when it fails, so that one run shows every failure.
run_check() {
    local name=$1
    shift
    echo "== $name"
    "$@" || failed+=("$name")
}

static_checks() {
    run_check "ruff check" .venv/bin/ruff check
    run_check "ruff format" .venv/bin/ruff format --check
    run_check "mypy" .venv/bin/mypy
    run_check "import directions" .venv/bin/lint-imports --no-logo
}

# report_failed: exit status 1 and their names if any check failed.
report_failed() {
    if ((${#failed[@]} > 0)); then
        echo "failed: $(printf '%s, ' "${failed[@]}" | sed 's/, $//')" >&2
        return 1
    fi
}
