package integration

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/nfstest"
)

// full says that tests are to run as long as was promised, not as long as they may here.
func full() bool { return os.Getenv("LX_TEST_FULL") != "" }

// A database server: PostgreSQL makes its files, is worked on by several
// clients, crashes, recovers, and its checks find nothing.
func TestGaneshaPostgres(t *testing.T) {
	seconds, versions := 3, []string{"4.2"}
	if runAs.uid == 0 {
		versions = []string{"3"}
	}
	if full() {
		seconds, versions = 60, []string{"3", "4.2"}
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			s := w.nfs(nfstest.Options{})
			w.hold()
			dir := s.mount(nfstest.Data, version)
			// It refuses to be run by root.
			as, user := []string{"--as-user"}, runAs.name
			if runAs.uid == 0 {
				as, user = nil, "nobody"
			}
			script := fmt.Sprintf(`set -e
				PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n1):$PATH; cd %[1]s/db; sockets=$(mktemp -d); export PGHOST=$sockets PGDATA=%[1]s/db/data PGDATABASE=postgres PGUSER=$(id -un)
				trap 'pg_ctl -s -m immediate stop 2>/dev/null || true; rm -rf $sockets' EXIT
				initdb --data-checksums --auth=trust >/dev/null
				echo "listen_addresses = ''
unix_socket_directories = '$sockets'" >>data/postgresql.conf
				pg_ctl -s -w -l log start
				pgbench -q -i -s 2 2>/dev/null
				pgbench -c 4 -j 2 -T %[2]d | grep -E 'processed|failed|tps'
				pg_ctl -s -m immediate stop; pg_ctl -s -w -l log start
				psql -Atc 'select sum(abalance) = (select sum(delta) from pgbench_history), (select sum(bbalance) from pgbench_branches) = sum(abalance) from pgbench_accounts'
				pg_amcheck --install-missing --heapallindexed
				pg_ctl -s -w -m fast stop; pg_checksums -c | grep Bad`, dir, seconds)
			w.must("mkdir " + dir + "/db")
			run := append(as, "sh", "-c", script)
			if as == nil {
				w.must("chown " + user + " " + dir + "/db; chmod 755 " + w.dir)
				run = []string{"setpriv", "--reuid", user, "--regid", "nogroup", "--clear-groups", "sh", "-c", script}
			}
			r := w.within(3*time.Minute+time.Duration(seconds)*time.Second, run...)
			if r.code != 0 {
				t.Fatalf("%v\n%s", r, w.sh("cat "+dir+"/db/log").out)
			}
			t.Log(r.out)
		})
	}
}
