#!/bin/sh
# Install the Debian packages that a target needs and this machine lacks.
# usage: setup.sh build|test|python|repomap|bench|lint|sanitize|slides|fuzz|proofs|coverage ...
set -eu

BUILD="gcc libc6-dev meson ninja-build pkg-config libsqlite3-dev liblz4-dev libzstd-dev
	libxxhash-dev libinih-dev libjansson-dev"
# npm comes with some builds of Node, and as a package of its own with Debian's.
npm_package() {
	command -v npm >/dev/null || echo npm
}

packages=""
for what in "$@"; do
	case $what in
	build) packages="$packages $BUILD" ;;
	# zlib: sqlite3.pc asks programs that link statically for it.
	test) packages="$packages $BUILD g++ python3 python3-dev python3-pytest libcmocka-dev zlib1g-dev libncurses-dev bash-completion fish zsh tmux" ;;
	python) packages="$packages $BUILD python3-dev python3-pytest python3-pip python3-venv" ;;
	repomap) packages="$packages libtree-sitter-dev python3 git universal-ctags $(npm_package)" ;;
	bench) packages="$packages $BUILD g++ python3 librocksdb-dev python3-diskcache" ;;
	lint) packages="$packages $BUILD clang-14 clang-format-14 python3" ;;
	sanitize) packages="$packages $BUILD g++ python3 libcmocka-dev libasan8 libubsan1 libtsan2" ;;
	slides)
		packages="$packages $BUILD libturbojpeg0-dev libjpeg62-turbo-dev libexpat1-dev
			libopenslide-dev libvips-dev libvips-tools libmicrohttpd-dev chromium strace
			curl python3"
		# npm's own package brings another nodejs than one that is there already.
		command -v npm >/dev/null || packages="$packages nodejs npm"
		;;
	# libFuzzer and its sanitizers are a package of their own.
	fuzz) packages="$packages $BUILD clang-14 libclang-rt-14-dev" ;;
	proofs) packages="$packages $BUILD clang-14 libclang-rt-14-dev python3 e2fsprogs xfsprogs spin" ;;
	coverage) packages="$packages $BUILD g++ python3 libcmocka-dev gcovr" ;;
	*)
		echo "setup.sh: nobody needs \"$what\"" >&2
		exit 2
		;;
	esac
done

missing=""
for package in $packages; do
	case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) in
	installed) ;;
	*) missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "setup.sh: these packages are missing, and there is no sudo:$missing" >&2
		exit 1
	fi
	as_root="sudo"
fi
echo "installing:$missing"
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive sh -c '
	apt-get -qq update
	apt-get -qq install --yes --no-install-recommends '"$missing"' </dev/null >/dev/null
'
