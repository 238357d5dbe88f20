# Sourced by the scripts beside it: Debian packages that are missing get installed, others are left as they are.

# debian_packages_install PACKAGE...: needs root or sudo only when a package is missing.
debian_packages_install() {
    local package missing=() as_root=() installed
    installed=$(dpkg-query --show --showformat '${db:Status-Abbrev}${Package}\n' "$@" 2>/dev/null || true)
    for package in "$@"; do
        grep -qxF "ii $package" <<<"$installed" || missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then
        return 0
    fi
    if ((EUID != 0)); then
        if ! command -v sudo >/dev/null; then
            echo "$0: these Debian packages are missing, and there is no sudo to install them: ${missing[*]}" >&2
            return 1
        fi
        as_root=(sudo)
    fi
    echo "$(basename "$0"): installing Debian packages: ${missing[*]}" >&2
    # A fresh machine has no package lists; recommended packages would only make it larger.
    "${as_root[@]}" apt-get -q -q update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -q -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "${missing[@]}" >&2
}

# debian_packages_install_without_starting PACKAGE...: as above, and no service that comes with them is started.
# The package lttng-tools would start its own session daemon, which would own the places ours is about to use.
debian_packages_install_without_starting() {
    local policy=/usr/sbin/policy-rc.d as_root=() status=0
    if [[ -e $policy ]]; then # somebody's own policy: theirs to keep
        debian_packages_install "$@"
        return
    fi
    ((EUID == 0)) || as_root=(sudo)
    if ((EUID == 0)) || command -v sudo >/dev/null; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin "$policy"
        debian_packages_install "$@" || status=$?
        "${as_root[@]}" rm -f "$policy"
        return $status
    fi
    debian_packages_install "$@"
}
