#!/bin/sh
# Makes the secrets that are missing in a folder, each in a file that its owner and group can read. Those that are there stay.
set -eu
cd "${1:?the folder of the secrets}"
umask 027

make_secret() {
    test -s "$1" && return
    python3 -c 'import secrets; print(secrets.token_hex(24), end="")' > ".$1"
    mv ".$1" "$1"
}

for name in redis_password service_token ray_token log_key grafana_password; do
    make_secret "$name"
done
printf 'redis://:%s@redis:6379/0' "$(cat redis_password)" > .redis_url
mv .redis_url redis_url
