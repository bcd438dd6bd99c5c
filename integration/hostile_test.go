package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/lxbridge/lx/integration/smbtest"
)

// spoiler is a proxy before a server that changes answers.
type spoiler struct {
	net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex // guards what follows
	rand   *rand.Rand
	change func(r *rand.Rand, frame []byte) ([]byte, bool) // nil: as they are; false: hang up
}

func newSpoiler(t *testing.T, s *share) *spoiler {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &spoiler{Listener: l, rand: rand.New(rand.NewPCG(11, 7))}
	p.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.relay(client, s.Addr()) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.wg.Wait()
	})
	return p
}

func (p *spoiler) port() int { return p.Addr().(*net.TCPAddr).Port }

func (p *spoiler) set(change func(r *rand.Rand, frame []byte) ([]byte, bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.change = change
}

func (p *spoiler) relay(client net.Conn, to string) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	p.wg.Go(func() {
		_, _ = io.Copy(server, client)
		server.Close()
	})
	for {
		frame := make([]byte, 4)
		if _, err := io.ReadFull(server, frame); err != nil {
			return
		}
		frame = append(frame, make([]byte, binary.BigEndian.Uint32(frame)&0xffffff)...)
		if _, err := io.ReadFull(server, frame[4:]); err != nil {
			return
		}
		goOn := true
		p.mu.Lock()
		if p.change != nil {
			frame, goOn = p.change(p.rand, frame)
		}
		p.mu.Unlock()
		if _, err := client.Write(frame); err != nil || !goOn {
			return
		}
	}
}

// nowAndThen spoils one answer of n.
func nowAndThen(n int, f func(*rand.Rand, []byte) ([]byte, bool)) func(*rand.Rand, []byte) ([]byte, bool) {
	return func(r *rand.Rand, b []byte) ([]byte, bool) {
		if r.IntN(n) > 0 {
			return b, true
		}
		return f(r, b)
	}
}

func shortened(f []byte, n int) []byte {
	f = f[:4+n]
	binary.BigEndian.PutUint32(f, uint32(n))
	return f
}

var spoilings = map[string]func(*rand.Rand, []byte) ([]byte, bool){
	"closed":           func(r *rand.Rand, f []byte) ([]byte, bool) { return f[:r.IntN(len(f))], false },
	"truncated":        func(r *rand.Rand, f []byte) ([]byte, bool) { return shortened(f, r.IntN(len(f)-3)), true },
	"length too large": func(_ *rand.Rand, f []byte) ([]byte, bool) { f[1]++; return f, true },
	"garbage": func(r *rand.Rand, f []byte) ([]byte, bool) {
		for i := 4; i < len(f); i += 1 + r.IntN(32) {
			f[i] = byte(r.Uint32())
		}
		return f, true
	},
	"large fields": func(r *rand.Rand, f []byte) ([]byte, bool) {
		if at := 68 + r.IntN(60)&^3; at+4 <= len(f) {
			binary.LittleEndian.PutUint32(f[at:], 0xFFFFFFF0+r.Uint32N(16))
		}
		return f, true
	},
	"lost": func(*rand.Rand, []byte) ([]byte, bool) { return nil, true },
}

// TestHostileServer: whatever a server answers, calls end, the broker lives,
// and a good server can be mounted afterwards.
func TestHostileServer(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("dir/file", strings.Repeat("content\n", 20_000))
	hold := w.hold()
	broker := w.broker()
	t.Run("spoilt", func(t *testing.T) {
		for name, spoil := range spoilings {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // they wait
				s := s.in(t)
				w := s.w
				p := newSpoiler(t, s)
				dir := w.mkdir(strings.ReplaceAll(name, " ", "-"))
				cmd := fmt.Sprintf("mount -i -t cifs %s %s -o port=%d,credentials=%s,echo_interval=1,soft,actimeo=0", s.source("data", ""), dir, p.port(), s.credentials)
				// From the first word on.
				p.set(nowAndThen(2, spoil))
				if r := w.within(40*time.Second, "sh", "-c", "timeout -s INT -k 5 6 "+cmd); r.code == 137 {
					t.Errorf("mount cannot be interrupted: %v", r)
				}
				p.set(nil)
				w.must("umount " + dir + " 2>/dev/null || true; " + cmd)
				p.set(nowAndThen(5, spoil))
				script := "cd " + dir + ` || exit 0
t() { timeout -s INT -k 3 1 "$@" >/dev/null 2>&1; [ $? = 137 ] && echo stuck: "$@"; }
for i in 1; do t ls -lR .; t cat dir/file; t cp /bin/true new; t mkdir d; t mv new d/x; t rm -r d new; t stat -f .; t sync -f .; done; true`
				if r := w.within(50*time.Second, "sh", "-c", script); r.code != 0 || r.out != "" {
					t.Errorf("%v", r)
				}
				p.set(nil)
				if r := w.within(20*time.Second, "sh", "-c", "umount "+dir+" || umount -f -l "+dir); r.code != 0 {
					t.Error(r)
				}
			})
		}
	})
	same(t, "broker", w.broker(), broker)
	if log := w.log(); strings.Contains(log, "panic") {
		t.Errorf("the broker broke down:\n%s", tail(log, 60))
	}
	dir := s.mount()
	w.must("tail -c 8 " + dir + "/dir/file; umount " + dir)
	hold.in.Close()
	hold.wait(bound)
}

func wide(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// TestHostileNames: names that a server makes up lead nowhere else.
func TestHostileNames(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	const placeholder = "PLACEHOLDER"
	s.put("dir/"+placeholder, "escaped\n")
	s.put("dir/good", "good\n")
	p := newSpoiler(t, s)
	outside := w.mkdir("outside")
	for _, name := range []string{"../outside/", "/tmp/outsid", "..\\..\\..\\..", "a/b/c/d/e/f", ".\x00.........", "..\x00\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"} {
		t.Run(fmt.Sprintf("%q", name), func(t *testing.T) {
			s := s.in(t)
			w := s.w
			dir := w.mkdir("m")
			p.set(func(_ *rand.Rand, f []byte) ([]byte, bool) {
				return bytes.ReplaceAll(f, wide(placeholder), wide(name)), true
			})
			w.must(fmt.Sprintf("mount -i -t cifs %s %s -o port=%d,credentials=%s,actimeo=0", s.source("data", "dir"), dir, p.port(), s.credentials))
			w.must("cd ~; rm -rf copy archive; cp -r " + dir + " copy 2>/dev/null || true; tar cf archive -C " + dir + " . 2>/dev/null || true")
			out := w.must("ls -1a --quoting-style=c " + dir + "; tar tf archive --quoting-style=c")
			if strings.Contains(out, "..\\") || strings.Contains(out, "outsid") || strings.Contains(out, "/b") || strings.Contains(out, `\0`) || !strings.Contains(out, "good") {
				t.Errorf("names: %s", out)
			}
			w.must("umount " + dir)
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
			if found, err := filepath.Glob(filepath.Join(outside, "*")); err != nil || len(found) > 0 {
				t.Errorf("files outside: %v, %v", found, err)
			}
		})
	}
}

// TestLinkLoops: links of a share that go in circles, or out of it.
func TestLinkLoops(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	dir := s.mount("mfsymlinks")
	r := w.sh("cd " + dir + "; ln -s b a; ln -s a b; ln -s . self; ln -s " + strings.Repeat("self/", 50) + "a deep; cat a; cat self/self/self/b; cat deep; ls -R >/dev/null; find -L . >/dev/null; echo done")
	if r.out != "done\n" || !strings.Contains(r.err, "Too many levels of symbolic links") {
		t.Error(r)
	}
	same(t, "a link", w.must("cd "+dir+"; echo x > file; ln -s file link; cat link; readlink link"), "x\nfile")
}
