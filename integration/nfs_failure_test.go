package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/nfstest"
)

// The server is killed and comes back while a file is copied, a lock is held
// and writers sync: nothing is lost that fsync promised, and the lock is held
// still or its loss is told.
func TestGaneshaRestart(t *testing.T) {
	for _, version := range nfsVersions {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			s := w.nfs(nfstest.Options{})
			w.hold()
			dir := s.mount(nfstest.Data, version, "timeo=50")
			size := 64 << 20
			if full() {
				size = 1 << 30
			}
			src := w.write("src", strings.Repeat("sixteen bytes ..", size/16))
			busy := w.start("sh", "-ec", fmt.Sprintf(`cd %s
				python3 -c '
import fcntl, os, sys, time
f = open("lock", "w"); fcntl.lockf(f, fcntl.LOCK_EX); f.write("held"); f.flush(); os.fsync(f.fileno())
print("locked", flush=True); sys.stdin.readline()' &
				for n in 1 2 3 4 5 6 7 8; do python3 -c '
import os, sys
n = 0
with open("w" + sys.argv[1], "w") as f:
    while n < 100:
        n += 1; f.write("%%d\n" %% n); f.flush(); os.fsync(f.fileno())
        if n == 20: print("writing", flush=True)
print("writer ended", flush=True)' $n & done
				cp %s copy; sync copy; echo copied; wait`, dir, src))
			busy.says("locked")
			busy.says("writing")
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			r := busy.wait(5 * time.Minute)
			same(t, "exit code", r.code, 0)
			same(t, "writers that ended", strings.Count(r.out, "writer ended"), 8)
			w.mustWithin(5*time.Minute, "cmp "+src+" "+dir+"/copy; cmp "+src+" "+s.in(t).mount(nfstest.Data, version)+"/copy")
			for n := 1; n <= 8; n++ {
				if got := s.get(nfstest.Data, fmt.Sprintf("w%d", n)); lines(got) != 100 || !strings.HasSuffix(got, "\n100\n") {
					t.Errorf("writer %d: %d lines", n, lines(got))
				}
			}
			if t.Failed() {
				t.Log(r)
			}
		})
	}
}

// A lock that is held across a restart of the server keeps others out after it.
func TestGaneshaLockReclaimed(t *testing.T) {
	for _, version := range []string{"4.0", "4.1", "4.2"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			s := w.nfs(nfstest.Options{})
			w.hold()
			dir, other := s.mount(nfstest.Data, version), s.mount(nfstest.Data, version)
			const take = `python3 -c '
import fcntl, sys
f = open(sys.argv[1] + "/lock", "a")
try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError: print("busy"); sys.exit(0)
print("locked", flush=True); sys.stdin.readline()' `
			holder := w.startOpen("sh", "-c", take+dir)
			holder.says("locked")
			same(t, "the lock seen from another mount", w.must(take+other+" </dev/null"), "busy")
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.must("cat " + dir + "/lock") // finds out
			same(t, "the lock after the restart", w.must(take+other+" </dev/null"), "busy")
			holder.in.Close()
			holder.wait(bound)
			same(t, "the lock once it is free", w.must(take+other+" </dev/null"), "locked")
		})
	}
}

// A network that is cut: soft mounts fail in time, hard ones go on when it is
// back, and SIGKILL ends whoever waits.
func TestGaneshaCut(t *testing.T) {
	for _, version := range []string{"3", "4.2"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			s := w.nfs(nfstest.Options{Namespace: true})
			w.hold()
			soft := s.mount(nfstest.Data, version, "softerr", "timeo=10", "retrans=1")
			hard := s.mount(nfstest.Data, version, "hard", "timeo=10", "retrans=1")
			w.must("echo x > " + hard + "/f")
			if err := s.Link(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			r := w.sh("cat " + soft + "/f; ls " + soft + "/none")
			if r.code == 0 || r.took > 30*time.Second || !strings.Contains(r.err, "timed out") && !strings.Contains(r.err, "Input/output error") {
				t.Errorf("soft: %v", r)
			}
			killed := w.sh("timeout -s KILL 1 ls " + hard + "/none; echo $?")
			if !strings.Contains(killed.out, "137") || killed.took > 10*time.Second {
				t.Errorf("a reader that was killed: %v", killed)
			}
			waits := w.start("sh", "-c", "echo y >> "+hard+"/f; sync "+hard+"/f; cat "+hard+"/f")
			if full() {
				w.mustWithin(2*time.Minute, "sleep 60")
			}
			if err := s.Link(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			r = waits.wait(bound)
			same(t, "hard, once the network is back", r.out, "x\ny\n")
			same(t, "at the server", s.get(nfstest.Data, "f"), "x\ny\n")
			w.must("cat " + soft + "/f")
		})
	}
}
