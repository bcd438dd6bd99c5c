package integration

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/lxbridge/lx/integration/farm"
)

// TestDevicesExport exports a device from where lx has brought it, pairs, and attaches it
// once more: through usbfs, the exporter's side of it, TLS and USB/IP.
func TestDevicesExport(t *testing.T) {
	t.Parallel()
	f, at := newFarm(t, farm.Linux)
	firmware := random(20_000)
	dfu := &farm.DFU{Serial: "DFU0002"}
	if err := f.Plug("1-1", dfu.Spec()); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	t.Cleanup(func() { w.dev("stop") })
	w.dev("attach", at+"1-1")
	exporter := w.startOpen("sh", "-c", "XDG_STATE_HOME=$HOME/exporter exec "+lxdevPath+" export --listen 127.0.0.1:0 --pair serial=DFU0002")
	exporter.says("listening on")
	said := regexp.MustCompile(`lxdev pair HOST (\S+)\nlistening on (\S+)\n`).FindStringSubmatch(exporter.out.String())
	if said == nil {
		t.Fatalf("export says %q", exporter.out.String())
	}
	code, server := said[1], said[2]
	if r := w.lxdev("attach", "lx://"+server+"/200-1"); r.code != 1 || !strings.Contains(r.err, "not paired") {
		t.Errorf("before pairing: %v", r)
	}
	w.dev("pair", server, code)
	if out := w.dev("list", "lx://"+server); !strings.Contains(out, "1d6b:0139") {
		t.Errorf("the exporter lists %s", out)
	}
	w.dev("attach", "lx://"+server+"/200-1")
	if err := os.WriteFile(w.path("home/firmware"), firmware, 0o644); err != nil {
		t.Fatal(err)
	}
	w.must("lsusb -v -s 200:3 2>/dev/null | grep -q DFU0002; dfu-util -p 200-2 -D firmware; dfu-util -p 200-2 -U back; head -c 20000 back | cmp - firmware")
	if got := dfu.Firmware(); !strings.HasPrefix(string(got), string(firmware)) {
		t.Errorf("the device got %d other bytes", len(got))
	}
}
