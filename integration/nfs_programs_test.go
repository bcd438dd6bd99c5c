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

// What one mount writes another sees, and a database of two programs.
func TestGaneshaTwoMounts(t *testing.T) {
	for _, version := range []string{"4.0", "4.2"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			s := w.nfs(nfstest.Options{})
			w.hold()
			a, b := s.mount(nfstest.Data, version), s.mount(nfstest.Data, version)
			w.must("sqlite3 " + a + "/db 'create table t(who, n)'")
			script := `i=0; while [ $i -lt 10 ]; do i=$((i+1)); sqlite3 -cmd '.timeout 20000' %s/db "begin immediate; insert into t values('%s', (select count(*) from t)); commit;" || exit 1; done`
			for _, who := range []string{"a", "b"} {
				for _, dir := range []string{a, b} {
					w.must(fmt.Sprintf(script, dir, who))
				}
			}
			same(t, "rows", w.must("sqlite3 "+b+"/db 'pragma integrity_check; select count(*), count(distinct n) from t'"), "ok\n40|40")
			// What one has closed the other sees when it opens.
			w.must(fmt.Sprintf("for i in 1 2 3 4 5 6 7 8 9; do echo $i > %[1]s/seen; [ $(cat %[2]s/seen) = $i ]; echo again $i >> %[2]s/seen; tail -n1 %[1]s/seen | grep -q \"again $i\"; done", a, b))
			// Mappings that are synced.
			w.must(fmt.Sprintf("%s %s/m 65536; cmp %[2]s/m %[3]s/m; %[1]s %[3]s/m 65536; cmp %[2]s/m %[3]s/m", helper("mmap-write"), a, b))
		})
	}
}
