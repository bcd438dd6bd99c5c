package devcli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"
)

// lxdev runs the command with directories of the test's own.
func lxdev(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, errw bytes.Buffer
	root := newRoot(&out, &errw)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func ownDirs(t *testing.T) {
	t.Helper()
	for _, name := range []string{"LX_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, t.TempDir()+"/lx")
	}
}

func TestExportRefuses(t *testing.T) {
	ownDirs(t)
	for _, test := range []struct{ args, want string }{
		{"export", "which devices"},
		{"export class=3", `there is no "class"`},
		{"export --plain --pair any", "nothing is paired"},
		{"export --stdio --plain any", "no other flag"},
		{"export any", "no machine was paired"},
		{"export --plain --listen nowhere any", "cannot listen"},
		{"pair lab", "HOST and CODE"},
		{"pair lab 12", "no code"},
		{"pair ssh://lab 1234-5678", "cannot read the address"},
		{"peers --forget lab", `no peer "lab"`},
		{"list ftp://lab", "there is no ftp://"},
	} {
		if _, err := lxdev(t, strings.Fields(test.args)...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("lxdev %s: %v", test.args, err)
		}
	}
}

// TestExport pairs with an exporter by the code that it prints, lists what it has,
// which is nothing here, and forgets it.
func TestExport(t *testing.T) {
	ownDirs(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		// A rule that no device fits: the test's machine gives nothing away.
		done <- runExport(ctx, exportOptions{listen: "127.0.0.1:0", pair: true}, []string{"serial=lx-no-such-device"}, w, io.Discard)
		w.Close()
	}()
	var printed []byte
	b := make([]byte, 1000)
	for !bytes.Contains(printed, []byte("listening on ")) || !bytes.HasSuffix(printed, []byte("\n")) {
		n, err := r.Read(b)
		if err != nil {
			t.Fatalf("%v, after %q", err, printed)
		}
		printed = append(printed, b[:n]...)
	}
	code := regexp.MustCompile(`lxdev pair HOST (\d{4}-\d{4})`).FindSubmatch(printed)
	address := regexp.MustCompile(`listening on (\S+)`).FindSubmatch(printed)
	if code == nil || address == nil {
		t.Fatalf("export prints %q", printed)
	}
	at := string(address[1])
	if _, err := lxdev(t, "list", "lx://"+at); err == nil || !strings.Contains(err.Error(), "not paired") {
		t.Errorf("before pairing: %v", err)
	}
	if _, err := lxdev(t, "pair", at, string(code[1])); err != nil {
		t.Fatal(err)
	}
	if out, err := lxdev(t, "list", "--json", "lx://"+at); err != nil || strings.TrimSpace(out) != "[]" {
		t.Errorf("list: %q, %v", out, err)
	}
	var peers []struct{ Name, Key string }
	out, err := lxdev(t, "peers", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &peers)
	}
	if err != nil || len(peers) != 2 { // one machine is both sides here
		t.Fatalf("peers: %q, %v", out, err)
	}
	for _, p := range peers {
		if _, err := lxdev(t, "peers", "--forget", p.Name); err != nil {
			t.Error(err)
		}
	}
	if _, err := lxdev(t, "list", "lx://"+at); err == nil {
		t.Error("who was forgotten is reached")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
