package netns

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/netns/netnstest"
)

var addrs = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})

func TestDump(t *testing.T) {
	local4, local6 := netip.MustParseAddrPort("127.0.0.1:80"), netip.MustParseAddrPort("[::1]:81")
	c := newConn(netnstest.Kernel(t, func(r netnstest.Request) [][]byte {
		stale := netnstest.Socket(r.Seq+99, netnstest.Inet{Local: local4, State: 10})
		switch {
		case len(r.Raw) > 72 || r.Protocol == 136: // MPTCP: by attribute
			return [][]byte{netnstest.Failed(r.Seq, unix.ENOENT)}
		case r.Family == unix.AF_INET:
			return [][]byte{append(stale, netnstest.Socket(r.Seq, netnstest.Inet{Local: local4, State: 10, Inode: 7, Cookie: 1 << 40, Cgroup: 99, UID: 5})...), netnstest.Done(r.Seq)}
		default:
			return [][]byte{append(netnstest.Socket(r.Seq, netnstest.Inet{Local: local6, State: 7, Cookie: 3, V6Only: true}), netnstest.Done(r.Seq)...)}
		}
	}))
	defer c.close()
	got, missing, err := c.sockets(Query{Protocols: []Protocol{TCP, UDPLite}})
	if err != nil {
		t.Fatal(err)
	}
	none4, none6 := netip.AddrPortFrom(netip.IPv4Unspecified(), 0), netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	want := []Socket{
		{Protocol: TCP, Family: unix.AF_INET, State: Listen, Local: local4, Remote: none4, Inode: 7, Cookie: 1 << 40, Cgroup: 99, UID: 5},
		{Protocol: TCP, Family: unix.AF_INET6, State: Bound, Local: local6, Remote: none6, Cookie: 3, V6Only: true},
	}
	if d := cmp.Diff(want, got, addrs); d != "" {
		t.Error(d)
	}
	if !slices.Equal(missing, []Protocol{UDPLite}) {
		t.Errorf("missing %v", missing)
	}
}

// TestBadAnswers: none hangs, and each is told.
func TestBadAnswers(t *testing.T) {
	for name, answer := range map[string]func(seq uint32) [][]byte{
		"refused":         func(seq uint32) [][]byte { return [][]byte{netnstest.Failed(seq, unix.EACCES)} },
		"short header":    func(uint32) [][]byte { return [][]byte{{1, 2, 3}} },
		"length too long": func(seq uint32) [][]byte { return [][]byte{netnstest.Done(seq)[:18]} },
		"length zero":     func(uint32) [][]byte { return [][]byte{make([]byte, 16)} },
		"short socket":    func(seq uint32) [][]byte { return [][]byte{netnstest.Message(20, 0, seq, make([]byte, 71))} },
		"bad attribute": func(seq uint32) [][]byte {
			return [][]byte{netnstest.Message(20, 0, seq, append(make([]byte, 72), 200, 0, 11, 0))}
		},
	} {
		c := newConn(netnstest.Kernel(t, func(r netnstest.Request) [][]byte { return answer(r.Seq) }))
		if _, _, err := c.sockets(Query{Protocols: []Protocol{TCP}}); err == nil {
			t.Errorf("%s: taken", name)
		} else if name == "refused" && !errors.Is(err, unix.EACCES) {
			t.Errorf("%s: %v", name, err)
		}
		c.close()
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(netnstest.Socket(1, netnstest.Inet{Local: netip.MustParseAddrPort("[::1]:81"), V6Only: true, Cgroup: 5}))
	f.Add(append(netnstest.Done(1), netnstest.Failed(2, unix.EPERM)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		bodies := 0
		err := eachMessage(b, func(h header, body []byte) error {
			bodies += nlHeader + len(body)
			if s, err := decodeInet(body, TCP); err == nil && (s.LocalString() == "" || s.key() == (key{})) {
				t.Error("a socket without a text")
			}
			if s, err := decodeVSock(body); err == nil && s.RemoteString() == "" {
				t.Error("a socket without a text")
			}
			_ = failure(body)
			return nil
		})
		if err == nil && bodies+3 < len(b)-3*len(b)/16 {
			t.Errorf("%d of %d bytes read, and no error", bodies, len(b))
		}
	})
}

const procTCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000005:00000002 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F91 0200007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 20 4 30 10 -1
`

func TestParseProc(t *testing.T) {
	var got []string
	if err := parseProc(strings.NewReader(procTCP), TCP, func(s Socket) {
		got = append(got, strings.Join([]string{s.State.String(), s.LocalString(), s.RemoteString(), UserName(s.UID + 4000000)}, " "))
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{"LISTEN 127.0.0.1:8080 0.0.0.0:* 4001000", "ESTAB 127.0.0.1:8081 127.0.0.2:80 4000000"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"0: 0100007F:1F90", strings.Replace(procTCP, "0100007F:1F90", "0100007F", 1), strings.Replace(procTCP, "4711", "x", 1)} {
		if err := parseProc(strings.NewReader("title\n"+bad), TCP, func(Socket) {}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzProcNet(f *testing.F) {
	f.Add([]byte(procTCP))
	f.Add([]byte("\n0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0 0 0 0 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = parseProc(bytes.NewReader(b), TCP, func(s Socket) {
			if !s.Local.IsValid() || s.Family == 0 {
				t.Errorf("%+v", s)
			}
		})
	})
}

func TestContainer(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	pod := "12345678-1234-1234-1234-123456789abc"
	for path, want := range map[string]string{
		"/system.slice/docker-" + id + ".scope": "docker:0123456789ab",
		"/docker/" + id:                         "docker:0123456789ab",
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope/container":        "podman:0123456789ab",
		"/kubepods.slice/kubepods-pod" + strings.ReplaceAll(pod, "-", "_") + ".slice/crio-" + id + ".scope": "cri-o:0123456789ab " + pod,
		"/kubepods.slice/kubepods-pod" + pod + ".slice/cri-containerd-" + id + ".scope":                     "containerd:0123456789ab " + pod,
		"/kubepods/besteffort/pod" + pod + "/" + id:                                                         "kubernetes:0123456789ab " + pod,
		"/machine.slice/machine-my\\x2dbox.scope":                                                           "nspawn:my-box",
		"/lxc.payload.web/system.slice/nginx.service":                                                       "lxc:web",
		"/user.slice/user-1000.slice/session-3.scope":                                                       "",
		"/system.slice/docker.service":                                                                      "",
		"/":                                                                                                 "",
	} {
		c := containerOf(path)
		if got := strings.TrimSpace(c.String() + " " + c.Pod); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
