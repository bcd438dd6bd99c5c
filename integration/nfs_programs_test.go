package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/nfstest"
)

// Programs that ask much of a file system.
func TestGaneshaPrograms(t *testing.T) {
	for _, version := range []string{"3", "4.2"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			s := w.nfs(nfstest.Options{})
			w.hold()
			dir := s.mount(nfstest.Data, version)
			w.mustWithin(2*time.Minute, fmt.Sprintf(`cd %s
				mkdir src; cd src
				git -c init.defaultBranch=main init -q .; git config user.email a@b.c; git config user.name a
				for i in $(seq 1 20); do printf '#include <stdio.h>\nint f%%d(void) { return %%d; }\n' $i $i > f$i.c; done
				printf 'int main(void) { return 0; }\n' > main.c
				printf 'OBJ = $(patsubst %%%%.c,%%%%.o,$(wildcard *.c))\nprog: $(OBJ)\n\tcc -o $@ $(OBJ)\n' > Makefile
				git add .; git commit -qm first
				for i in 1 2 3; do echo "/* $i */" >> f$i.c; git commit -qam $i; done
				cd ..; git clone -q src clone; cd clone; git gc -q; git fsck; git log --oneline | wc -l
				make -s -j4 prog; ./prog
				cd ..; tar cf t.tar clone; mkdir x; tar xf t.tar -C x; diff -r clone x/clone
				rm -rf src clone x t.tar; ls -A`, dir))
		})
	}
}

// What one mount writes another sees, also where the server gives delegations;
// and a database of programs that write at the same moment on both.
func TestGaneshaTwoMounts(t *testing.T) {
	for _, c := range []struct{ version, export string }{{"3", nfstest.Data}, {"4.0", nfstest.Data}, {"4.2", nfstest.Data}, {"4.2", nfstest.Delegating}} {
		t.Run(c.version+" "+c.export, func(t *testing.T) {
			w := newWorld(t)
			s := w.nfs(nfstest.Options{Namespace: c.version == "3"}) // where the lock manager is found
			w.hold()
			a, b := s.mount(c.export, c.version, "lock"), s.mount(c.export, c.version, "lock")
			w.must("sqlite3 " + a + "/db 'create table t(who, n)'")
			w.mustWithin(3*time.Minute, fmt.Sprintf(`
				writer() { i=0; while [ $i -lt 10 ]; do i=$((i+1)); sqlite3 -cmd '.timeout 60000' $1/db "begin immediate; insert into t values('$2', (select count(*) from t)); commit;" || exit 1; done; }
				writer %[1]s a & one=$!; writer %[2]s b & two=$!; writer %[1]s c & three=$!; writer %[2]s d & four=$!
				for p in $one $two $three $four; do wait $p; done`, a, b))
			for _, dir := range []string{a, b} {
				same(t, "rows", w.must("sqlite3 "+dir+"/db 'pragma integrity_check; select count(*), count(distinct n) from t'"), "ok\n40|40")
			}
			// What one has closed the other sees when it opens.
			w.must(fmt.Sprintf("for i in 1 2 3 4 5 6 7 8 9; do echo $i > %[1]s/seen; [ $(cat %[2]s/seen) = $i ]; echo again $i >> %[2]s/seen; tail -n1 %[1]s/seen | grep -q \"again $i\"; done", a, b))
			if c.version == "4.0" || c.version == "4.2" && c.export == nfstest.Data {
				return
			}
			for _, script := range []string{mailbox, mappings} {
				path := w.write("script.py", script)
				w.mustWithin(2*time.Minute, fmt.Sprintf(`python3 %[1]s %[2]s 0 & one=$!; python3 %[1]s %[3]s 1 & two=$!; wait $one; wait $two
					python3 %[1]s %[2]s check; python3 %[1]s %[3]s check`, path, a, b))
			}
			// Mappings that are synced.
			w.must(fmt.Sprintf("%s %s/m 65536; cmp %[2]s/m %[3]s/m; %[1]s %[3]s/m 65536; cmp %[2]s/m %[3]s/m", helper("mmap-write"), a, b))
		})
	}
}

// mailbox does what mail servers do (dovecot): appends to a log under a lock of
// fcntl(2) on all of it, each record saying what was there before; rewrites an
// index by renaming over it under a lock file that link(2) makes.
const mailbox = `
import fcntl, os, sys, time
dir, who = sys.argv[1:]
log, index, dot = dir + "/log", dir + "/index", dir + "/index.lock"
def count():
    try: return int(open(index).read())
    except FileNotFoundError: return 0
if who == "check":
    records = open(log).read().split()
    assert [int(r.split(":")[0]) for r in records] == list(range(40)), records
    assert count() == 40, count()
    assert not os.path.exists(dot)
    sys.exit()
for n in range(20):
    f = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    fcntl.lockf(f, fcntl.LOCK_EX)
    size = os.fstat(f).st_size
    have = len(os.pread(f, size, 0).split())
    os.write(f, b"%d:%s\n" % (have, who.encode()))
    os.fdatasync(f)
    fcntl.lockf(f, fcntl.LOCK_UN)
    os.close(f)
    temp = "%s/temp.%s" % (dir, who)
    os.close(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    while True:
        try: os.link(temp, dot); break
        except FileExistsError: time.sleep(0.002)
    assert os.stat(temp).st_nlink == 2
    have = count()
    with open(temp + ".index", "w") as f:
        f.write(str(have + 1)); f.flush(); os.fsync(f.fileno())
    os.rename(temp + ".index", index)
    os.unlink(dot)
    os.unlink(temp)
`

// mappings has each side write its own pages of one file through a mapping, and
// sync them, while the other does.
const mappings = `
import mmap, os, sys
dir, who = sys.argv[1:]
page, pages, rounds = 4096, 64, 20
if who == "check":
    text = open(dir + "/mapped", "rb").read()
    assert len(text) == page * pages, len(text)
    for n in range(pages):
        assert text[n * page:(n + 1) * page] == b"%04d" % (rounds * 10 + n % 2) * (page // 4), n
    sys.exit()
f = os.open(dir + "/mapped", os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(f, page * pages)
m = mmap.mmap(f, page * pages)
for r in range(1, rounds + 1):
    for n in range(int(who), pages, 2):
        m[n * page:(n + 1) * page] = b"%04d" % (r * 10 + int(who)) * (page // 4)
    m.flush()
    os.fsync(f)
`
