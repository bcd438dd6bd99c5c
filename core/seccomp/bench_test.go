package seccomp_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/core/seccomp/seccomptest"
)

// inGuest times calls made by a guest: ns a call in the best burst.
func inGuest(b *testing.B, o seccomp.Options, call string, h seccomp.Handlers) float64 {
	file := filepath.Join(b.TempDir(), "ns")
	g := seccomptest.Start(b, o, "bench", call, file, strconv.Itoa(b.N))
	serve(b, g, h)
	g.Run(b)
	if code := g.Wait(b); code != 0 {
		b.Fatalf("the guest exits with %d", code)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	ns, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		b.Fatal(err)
	}
	return ns
}

// BenchmarkUntrapped is getppid under the filter; the metric native-ns is the
// same outside, and over-ns the difference (target: 60).
func BenchmarkUntrapped(b *testing.B) {
	trapped := inGuest(b, mountsIDs, "getppid", nil)
	native := bestBurst(b.N, getppid)
	b.ReportMetric(trapped, "ns/op")
	b.ReportMetric(native, "native-ns")
	b.ReportMetric(trapped-native, "over-ns")
}

// BenchmarkInline is a trapped call answered on the receiving thread (target: 8 µs).
func BenchmarkInline(b *testing.B) {
	b.ReportMetric(inGuest(b, mounts, "umount2", seccomp.Handlers{"umount2": reply(unix.EINVAL)}), "ns/op")
}

// BenchmarkServe is one answered by a goroutine.
func BenchmarkServe(b *testing.B) {
	h := seccomp.Handler{Serve: served}
	b.ReportMetric(inGuest(b, mounts, "umount2", seccomp.Handlers{"umount2": h}), "ns/op")
}
