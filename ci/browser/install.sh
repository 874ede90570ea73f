#!/usr/bin/env bash
# A browser for the tests that draw a view, which are skipped without it. Does nothing where one is, or without root.
set -euo pipefail
command -v chromium > /dev/null || command -v google-chrome > /dev/null && exit
[ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || { echo "no browser: its tests are skipped"; exit; }
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends chromium > /dev/null ||
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } ||
  echo "no browser: its tests are skipped"
