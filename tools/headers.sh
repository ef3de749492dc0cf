#!/bin/bash
# Compiles each public header alone, as C11 and as C++17, by gcc and by clang; in C++ a function that
# hides a struct is an error, too.
# Prints what failed, then "N passed, N failed, N skipped". Those for MPI and NCCL find the headers
# that the tests have of them.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

passed=0 failed=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The options initialiser is the one macro that is written twice, for C and for C++.
use='int main(void) { struct psgd_link l = PSGD_INIT(psgd_link); return l.size != sizeof(l); }'

vendor=()
compile() {
    local language=$1
    shift
    "$@" -x "$language" -I include "${vendor[@]}" -Wall -Wextra -Wpedantic -Wshadow -Werror \
        -fsyntax-only "$folder/header.$language"
}

for header in include/psgd/*.h include/psgd/experiment/*.h; do
    name=${header#include/}
    vendor=()
    case $name in
    psgd/mpi*) vendor=(-isystem tests/transport/mpi) ;;
    psgd/nccl*) vendor=(-isystem tests/cuda_shim/include) ;;
    esac
    printf '#include <%s>\n' "$name" >"$folder/header.c"
    [ "$name" != psgd/psgd.h ] || printf '%s\n' "$use" >>"$folder/header.c"
    cp "$folder/header.c" "$folder/header.c++"
    if compile c gcc -std=c11 && compile c clang-14 -std=c11 &&
        compile c++ g++ -std=c++17 && compile c++ clang++-14 -std=c++17; then
        passed=$((passed + 1))
    else
        echo "failed: <$name> does not compile alone"
        failed=$((failed + 1))
    fi
done
[ $passed -gt 0 ] || failed=$((failed + 1))
printf '%d passed, %d failed, 0 skipped\n' $passed $failed
[ $failed -eq 0 ]
