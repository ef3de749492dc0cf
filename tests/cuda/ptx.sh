#!/bin/sh
# usage: ptx.sh NVCC LIB FILE...: every kernel file compiles alone for every GPU that is promised. TAP.
nvcc=$1 lib=$2
shift 2
if [ -z "$nvcc" ]; then
    echo "1..0 # SKIP no nvcc"
    exit 0
fi
count=0 failed=0
for file; do
    for arch in 75 80 90; do
        count=$((count + 1))
        if errors=$("$nvcc" -std=c++17 -I"$lib" -ptx -arch="compute_$arch" -o /dev/null "$file" 2>&1); then
            echo "ok $count - $(basename "$file") for compute_$arch"
        else
            echo "not ok $count - $(basename "$file") for compute_$arch"
            echo "$errors" | sed 's/^/# /'
            failed=1
        fi
    done
done
echo "1..$count"
exit $failed
