#!/bin/sh
# sudo for an environment in which root is the user outside: nothing is to be
# gained, so the command just runs. Other users do not exist here.
usage() {
	echo "usage: sudo [-ABbEHknPSs] [-i] [-u root] [VAR=value]... [command [arg]...]" >&2
	exit 1
}
refuse() {
	echo "sudo: cannot run as $1: this environment has the one user root; see lx --help on maps" >&2
	exit 1
}
if [ "$(id -u)" != 0 ]; then
	echo "sudo: cannot become root: lx was started with --as-user" >&2
	exit 1
fi
shell=
while [ $# -gt 0 ]; do
	case $1 in
	-u | --user) [ $# -ge 2 ] || usage; case $2 in root | '#0') ;; *) refuse "$2" ;; esac; shift 2 ;;
	-u*) case ${1#-u} in root | '#0') ;; *) refuse "${1#-u}" ;; esac; shift ;;
	--user=*) case ${1#--user=} in root | '#0') ;; *) refuse "${1#--user=}" ;; esac; shift ;;
	-g | --group | -p | --prompt | -C | -h | -r | -t | -T | -D) [ $# -ge 2 ] || usage; shift 2 ;;
	-k | -K | --reset-timestamp | -v | --validate) shift; [ $# -gt 0 ] || exit 0 ;;
	-i | --login | -s | --shell) shell=1; shift ;;
	-l | --list) echo "root may run everything that the user outside may"; exit 0 ;;
	-V | --version) echo "sudo of lx"; exit 0 ;;
	--) shift; break ;;
	-[AbBEHnPS]* | --preserve-env* | --set-home | --non-interactive | --stdin) shift ;;
	-*) usage ;;
	*=*) export "$1"; shift ;;
	*) break ;;
	esac
done
if [ $# -eq 0 ]; then
	[ -n "$shell" ] || usage
	exec "${SHELL:-/bin/sh}"
fi
export SUDO_USER=root SUDO_UID=0 SUDO_GID=0 SUDO_COMMAND="$*"
exec "$@"
