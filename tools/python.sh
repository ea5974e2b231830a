#!/bin/sh
# Prints the Python to build with, or says on standard error what is missing.
#   sh tools/python.sh             the first usable python3, python, python3.13, python3.12 or python3.11
#   sh tools/python.sh 3.12        a usable Python 3.12, from PATH or among pyenv's versions
#   sh tools/python.sh /a/python   that one, if it is usable
# Usable: CPython 3.11 or newer with venv, pip's installer and the C headers, and the C compiler that it names.

probe='
import os, shutil, sys
want = sys.argv[1]
version = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11):
    sys.exit("Python %s is too old, 3.11 or newer is needed" % version)
if want and want != version:
    sys.exit("Python %s, not %s" % (version, want))
if sys.implementation.name != "cpython":
    sys.exit("not CPython")
try:
    import ensurepip, venv
except ImportError:
    sys.exit("it has no venv module (Debian: apt install python3-venv)")
import sysconfig
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("its C headers are missing (Debian: apt install python3-dev)")
compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
if os.name == "posix" and not shutil.which(compiler):
    sys.exit("no C compiler: %s is not on PATH (Debian: apt install gcc libc6-dev)" % compiler)
print(sys.executable)
'

version=
case "${1-}" in
    "") set -- python3 python python3.13 python3.12 python3.11 ;;
    3.*)
        version=$1
        set -- "python$version"
        if command -v pyenv >/dev/null 2>&1; then
            for each in "$(pyenv root)"/versions/"$version".*/bin/python; do
                [ -x "$each" ] && set -- "$@" "$each"
            done
        fi
        ;;
esac

said=
for each in "$@"; do
    command -v "$each" >/dev/null 2>&1 || continue
    if answer=$("$each" -c "$probe" "$version" 2>&1); then
        echo "$answer"
        exit 0
    fi
    said="$said
  $each: $(echo "$answer" | sed -n 1p)"
done
if [ -n "$said" ]; then
    echo "Flower cannot be built with any Python found here:$said" >&2
else
    echo "Flower needs Python ${version:-3.11 or newer}, and there is none on PATH (looked for: $*)." >&2
    echo "Install one, or name it: make PYTHON=/path/to/python" >&2
fi
exit 1
