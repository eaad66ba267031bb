# Sourced by the scripts: makes a virtual environment with Python 3.11 or later, installs the package with the extra
# named by $1 (none, fast, test or dev) and puts it on PATH. PYTHON names the Python, VENV the folder (default .venv).
# Does nothing when pyproject.toml has not changed since the last time.
extra="${1:-}"
python="${PYTHON:-}"
venv="${VENV:-.venv}"
if [ -z "$python" ]; then
    for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python="$candidate"
            break
        fi
    done
fi
if [ -z "$python" ]; then
    echo "dts needs Python 3.11 or later: install it, or name one with PYTHON=/path/to/python" >&2
    exit 1
fi
stamp="$venv/.dts-${extra:-run}"
wanted="$(cat pyproject.toml constraints.txt | cksum)"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    echo "setting up $venv${extra:+ with what $extra needs} …" >&2
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --clear "$venv" || {
            echo "cannot make a virtual environment with $python: install its venv module (Debian: python3-venv)" >&2
            exit 1
        }
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
    echo "$wanted" > "$stamp"
fi
export PATH="$PWD/$venv/bin:$PATH"
