# shellcheck shell=bash
# What the scripts of this folder share; sourced, with the current folder at the root of the tree.

# say TEXT: a heading between the output of other programs.
say() {
    printf '\n== %s\n' "$*"
}

# set_up DIR OPTION...: configures a build folder, or uses one that is complete.
set_up() {
    local dir=$1
    shift
    if [ -f "$dir/build.ninja" ] && meson configure "$dir" "$@" >/dev/null 2>&1; then
        return 0
    fi
    rm -rf "$dir"
    meson setup "$dir" "$@"
}

# give_back PATH...: what sudo made belongs to the user who called it.
give_back() {
    local path
    [ "$(id -u)" -eq 0 ] && [ "${SUDO_UID:-0}" -ne 0 ] || return 0
    for path in "$@"; do
        [ ! -e "$path" ] || chown -R -h "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$path"
    done
}

# begin_total [PATH...]: from here on the script ends with "N passed, N failed, N skipped" and an
# exit code that agrees, whatever ends it. A script that does not call all_ran at its end has one
# failure more, and one in which nothing passed has one. PATHs are given back at the end.
begin_total() {
    passed=0 failed=0 skipped=0 finished=no
    made=("$@")
    trap end_total EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

all_ran() {
    finished=yes
}

end_total() {
    trap - EXIT
    give_back "${made[@]}"
    [ "$finished" = yes ] || failed=$((failed + 1))
    if [ "$passed" -eq 0 ] && [ "$failed" -eq 0 ]; then
        echo "failed: no test ran"
        failed=1
    fi
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    exit $((failed > 0))
}

# fail TEXT: counts one failure, and says what it was.
fail() {
    echo "failed: $*"
    failed=$((failed + 1))
}
