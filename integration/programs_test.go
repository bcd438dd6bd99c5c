package integration

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/smbtest"
)

// TestPrograms runs everyday programs on a mounted share.
func TestPrograms(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	dir := s.mount()
	w.env = append(w.env, "D="+dir)
	for _, c := range []struct {
		name string
		f    func(t *testing.T, w *world, s *share)
	}{
		{"cp", copies}, {"tar", archives}, {"rsync", synchronizes}, {"gcc", compiles}, {"mmap", maps},
		{"large file", largeFile}, {"large directory", largeDirectory}, {"names", names}, {"git", clones},
		{"fio", verifies}, {"append and truncate", appends}, {"open and removed", removes}, {"locks", locks},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			s.w.env = w.env
			c.f(t, s.w, s)
		})
	}
}

func copies(t *testing.T, w *world, s *share) {
	w.must("head -c 32M /dev/urandom > ~/random; cp ~/random $D/copy; cp $D/copy $D/again; cmp ~/random $D/again; mv $D/again $D/moved; cp --sparse=always $D/moved ~/back; cmp ~/random ~/back")
	want := strings.Fields(w.must("sha256sum ~/random"))[0]
	for _, name := range []string{"copy", "moved"} {
		same(t, name+" on the server", fmt.Sprintf("%x", sha256.Sum256([]byte(s.get(name)))), want)
	}
	w.must("rm $D/copy $D/moved ~/back ~/random")
}

// archive is a tar of files in directories of 100.
func archive(t testing.TB, files int) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	add := func(h *tar.Header, text string) {
		h.Size, h.ModTime, h.Format = int64(len(text)), time.Unix(1_600_000_000, 0), tar.FormatPAX
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, text); err != nil {
			t.Fatal(err)
		}
	}
	for i := range files {
		if i%100 == 0 {
			add(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("tree/%03d/", i/100), Mode: 0o755}, "")
		}
		add(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("tree/%03d/file-%d", i/100, i), Mode: 0o755}, strings.Repeat(fmt.Sprintf("line %d\n", i), 1+i%200))
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func archives(t *testing.T, w *world, s *share) {
	const files = 5000
	name := w.write("home/tree.tar", string(archive(t, files)))
	w.mustWithin(2*time.Minute, "cd $D && tar xf "+name)
	if r := w.sh("cd $D && tar df " + name + " | head -n 3"); r.out != "" {
		t.Errorf("tar finds differences: %v", r)
	}
	same(t, "files", w.must("find $D/tree -type f | wc -l"), fmt.Sprint(files))
	same(t, "times kept", w.must("find $D/tree -type f ! -newermt @1600000001 | wc -l"), fmt.Sprint(files))
	n := 0
	err := filepath.Walk(filepath.Join(s.Path("data"), "tree"), func(path string, st os.FileInfo, err error) error {
		if err == nil && st.Mode().IsRegular() {
			n++
		}
		return err
	})
	if err != nil || n != files {
		t.Errorf("%d files on the server, %v", n, err)
	}
	w.mustWithin(2*time.Minute, "du -s $D/tree >/dev/null; tar cf - -C $D tree | tar tf - | wc -l; rm -r $D/tree; ! test -e $D/tree")
}

func synchronizes(_ *testing.T, w *world, _ *share) {
	w.write("home/small.tar", string(archive(w.t, 300)))
	w.must("cd ~ && tar xf small.tar && rsync -a tree/ $D/synced/ && diff -r tree $D/synced")
	same(w.t, "a second rsync", w.must("rsync -a --out-format=%n --no-perms ~/tree/ $D/synced/ | grep -v /$ || true"), "")
	w.must("echo more >> ~/tree/000/file-7; rm ~/tree/001/file-107; rsync -a --delete ~/tree/ $D/synced/; diff -r ~/tree $D/synced; rsync -a --inplace --no-whole-file ~/tree/ $D/synced/; rm -r $D/synced ~/tree")
}

func compiles(t *testing.T, w *world, _ *share) {
	w.must(`mkdir $D/src; cd $D/src
cat > main.c <<'EOF'
#include <stdio.h>
int twice(int);
int main(void) { printf("%d\n", twice(21)); }
EOF
echo 'int twice(int n) { return 2 * n; }' > twice.c
printf 'prog: main.o twice.o\n\t$(CC) -o $@ $^\nlib.so: twice.c\n\t$(CC) -shared -fPIC -o $@ $^\n' > Makefile
make -s prog lib.so`)
	same(t, "a program built on the share", w.must("$D/src/prog"), "42")
	same(t, "make again", w.must("make -C $D/src | grep -c 'up to date'"), "1")
	same(t, "a preloaded library", w.must("LD_PRELOAD=$D/src/lib.so $D/src/prog"), "42")
	w.must("cp $D/src/prog ~/prog; echo '#!/bin/sh\necho script' > $D/script; chmod +x $D/script; $D/script; rm -r $D/src $D/script")
}

// maps: what was written through a mapping is with the server once the file is
// closed and unmounted, and at the latest when the environment has stopped.
func maps(t *testing.T, w *world, s *share) {
	const size = 8<<20 + 1234
	want := make([]byte, size)
	for i := range want {
		want[i] = 'a' + byte(i>>12%26)
	}
	dir := s.mount()
	w.must(fmt.Sprintf("%s %s/mapped %d", helper("mmap-write"), dir, size))
	w.must("umount " + dir)
	if got := s.get("mapped"); got != string(want) {
		t.Errorf("after mmap, close and umount the server has %d bytes, equal: false", len(got))
	}
	out := w.must(helper("mmap-read") + " $D/mapped")
	for i := range out {
		if out[i] != 'a'+byte(i%26) {
			t.Fatalf("page %d reads %q", i, out[i])
		}
	}
	// A mapping and read(2) see the same.
	w.must(fmt.Sprintf("%s $D/mapped %d exit; sync $D/mapped; cmp $D/mapped ~/expected 2>/dev/null || test $(sha256sum < $D/mapped | cut -c 1-64) = %x", helper("mmap-write"), size, sha256.Sum256(want)))
	w.must("rm $D/mapped")
}

func largeFile(t *testing.T, w *world, s *share) {
	w.must("truncate -s 5G $D/large; stat -c %s $D/large; printf begin | dd of=$D/large conv=notrunc status=none; printf beyond | dd of=$D/large bs=1 seek=4500000000 conv=notrunc,fsync status=none")
	same(t, "beyond 4 GiB", w.must("dd if=$D/large bs=1 skip=4500000000 count=6 status=none; stat -c ' %s' $D/large"), "beyond 5368709120")
	f, err := os.Open(filepath.Join(s.Path("data"), "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 6)
	if _, err := f.ReadAt(b, 4_500_000_000); err != nil || string(b) != "beyond" {
		t.Errorf("on the server: %q, %v", b, err)
	}
	w.must("printf end >> $D/large; tail -c 9 $D/large | od -An -c | tr -d ' '; rm $D/large")
}

func largeDirectory(t *testing.T, w *world, s *share) {
	const entries = 10_000
	for i := range entries {
		path := filepath.Join(s.Path("data"), "many", fmt.Sprintf("entry-%d", i))
		if i == 0 {
			s.put("many/entry-0", "")
			continue
		}
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "ls", w.must("ls $D/many | wc -l"), fmt.Sprint(entries))
	same(t, "ls -l", w.must("ls -l $D/many | grep -c entry-"), fmt.Sprint(entries))
	same(t, "find", w.must("find $D/many -type f -name 'entry-*7' | wc -l"), fmt.Sprint(entries/10))
	same(t, "distinct", w.must("ls -U $D/many | sort -u | wc -l"), fmt.Sprint(entries))
	w.mustWithin(2*time.Minute, "rm -r $D/many")
}

// names are all that SMB can carry: the reserved characters of Windows travel
// as private ones (mapposix), a trailing dot and blank too.
func names(t *testing.T, w *world, _ *share) {
	var list []string
	for c := rune(' '); c < 127; c++ {
		if c != '/' {
			list = append(list, "a"+string(c)+"z")
		}
	}
	list = append(list, " lead", "two  blanks", "ünï", "日本語", "🙂", "e\u0301", strings.Repeat("n", 200), "-dash", "CON", "a.b.c", ".hidden", "~tilde~")
	var script, want strings.Builder
	script.WriteString("mkdir $D/names; cd $D/names\n")
	for _, name := range list {
		q := "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
		fmt.Fprintf(&script, "printf %%s %s > ./%s\n", q, q)
		fmt.Fprintf(&want, "%s\n", name)
	}
	w.must(script.String())
	got := strings.Split(w.must("cd $D/names; ls -1 -A -U --quoting-style=literal --show-control-chars"), "\n")
	have := map[string]bool{}
	for _, name := range got {
		have[name] = true
	}
	for _, name := range list {
		if !have[name] {
			t.Errorf("%q is not listed", name)
		}
	}
	same(t, "names", len(got), len(list))
	same(t, "each file holds its name", w.must(`cd $D/names; for f in * .[!.]*; do [ "$(cat "./$f"; echo .)" = "$f." ] || echo "$f"; done`), "")
	w.must(`cd $D/names; for f in *; do mv "./$f" "./x$f"; done; find . -type f -delete; cd ..; rmdir names`)
}

func clones(t *testing.T, w *world, _ *share) {
	w.must(`cd ~; git config --global user.name me; git config --global user.email me@example.org; git config --global gc.auto 0
git init -q origin; cd origin; for i in $(seq 50); do echo $i > f$i; done; git add .; git commit -qm one; echo more > f1; git commit -qam two`)
	w.must(`cd $D; git clone -q file://$HOME/origin clone 2>&1; cd clone; git checkout -qb work; echo changed > f2; git commit -qam three
git gc -q; git fsck --strict 2>&1; git status --porcelain | wc -l; git push -q origin work`)
	same(t, "commits", w.must("cd $D/clone; git log --oneline | wc -l; git -C ~/origin log --oneline work | wc -l"), "3\n3")
	w.must("rm -rf $D/clone")
}

func verifies(_ *testing.T, w *world, _ *share) {
	for _, options := range []string{"--rw=randwrite --bs=4k --size=8M", "--rw=write --bs=1M --size=64M", "--rw=randrw --bs=16k --size=8M --ioengine=mmap", "--rw=randwrite --bs=4k --size=4M --direct=1 --end_fsync=1"} {
		w.must("fio --name=v --directory=$D --fallocate=none --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=7 " + options + " >~/fio.log 2>&1 || { cat ~/fio.log; exit 1; }; rm $D/v.*")
	}
}

func appends(t *testing.T, w *world, s *share) {
	w.must("for i in 1 2 3 4; do (for j in $(seq 50); do echo $i-$j >> $D/log; done) & done; wait")
	same(t, "appended lines", lines(s.get("log")), 200)
	w.must("truncate -s 10 $D/log; truncate -s 20 $D/log; tail -c 10 $D/log | tr '\\0' x")
	same(t, "truncated and grown", len(s.get("log")), 20)
	w.must("sed -i 's/1/2/' $D/log; touch -d @1500000000 $D/log")
	same(t, "time", w.must("stat -c %Y $D/log; rm $D/log"), "1500000000")
}

// removes: a file lives on while it is open, under no name that is seen.
func removes(t *testing.T, w *world, _ *share) {
	same(t, "an open file", w.must("mkdir $D/r; cd $D/r; exec 3<>f; echo text >&3; rm f; ls; cat < /proc/self/fd/3; exec 3>&-; ls -A"), "text")
	same(t, "an open file renamed over", w.must("cd $D/r; echo old > g; exec 3<g; echo new > h; mv h g; cat <&3; cat g; rm g; exec 3<&-; ls -A; cd ..; rmdir r"), "old\nnew")
}

func locks(t *testing.T, w *world, _ *share) {
	p := w.startOpen("sh", "-c", "exec 9>$D/lock; flock 9 && echo held; read x")
	p.says("held")
	if r := w.sh("flock -n $D/lock true"); r.code != 1 {
		t.Errorf("a second lock: %v", r)
	}
	p.in.Close()
	p.wait(bound)
	w.must("flock -w 5 $D/lock true; rm $D/lock")
}

// TestNothingIsLost: 64 MiB are dirty when the last guest ends.
func TestNothingIsLost(t *testing.T) {
	for name, write := range map[string]string{
		"write": "head -c 64M /dev/urandom | tee %s/dirty | sha256sum",
		"mmap":  helper("mmap-write") + " %s/dirty 67108864 exit; echo none",
		"held":  "exec 5>%s/dirty; head -c 64M /dev/urandom | tee /proc/self/fd/5 | sha256sum; kill -9 $$",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.share(smbtest.Options{})
			dir := s.mount()
			r := w.sh(fmt.Sprintf(write, dir))
			if r := w.within(30*time.Second, "stop"); r.code != 0 {
				t.Fatal(r)
			}
			got := s.get("dirty")
			same(t, "bytes", len(got), 64<<20)
			want := strings.Fields(r.out)[0]
			if want == "none" {
				expected := make([]byte, 64<<20)
				for i := range expected {
					expected[i] = 'a' + byte(i>>12%26)
				}
				want = fmt.Sprintf("%x", sha256.Sum256(expected))
			}
			same(t, "checksum", fmt.Sprintf("%x", sha256.Sum256([]byte(got))), want)
		})
	}
}
