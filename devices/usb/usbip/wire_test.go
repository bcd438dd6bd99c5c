package usbip

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"testing"
)

// TestWire holds messages against the specification's examples and what the
// kernel's client and server of Linux 6.12 send.
func TestWire(t *testing.T) {
	for _, test := range []struct {
		header Header
		wire   string
	}{
		{Header{Command: CmdSubmit, Seq: 0xd05, Device: 0x0001000f, In: true, Endpoint: 1, Flags: FlagDirIn, Length: 0x40, Interval: 4},
			"00000001" + "00000d05" + "0001000f" + "00000001" + "00000001" + "00000200" + "00000040" + "00000000" + "00000000" + "00000004" + "0000000000000000"},
		{Header{Command: CmdSubmit, Seq: 7, Device: 2, Length: 18, Setup: [8]byte{0x80, 6, 0, 1, 0, 0, 18, 0}, In: true},
			"00000001" + "00000007" + "00000002" + "00000001" + "00000000" + "00000000" + "00000012" + "00000000" + "00000000" + "00000000" + "8006000100001200"},
		{Header{Command: RetSubmit, Seq: 0xd05, Status: -32, Length: 3},
			"00000003" + "00000d05" + "00000000" + "00000000" + "00000000" + "ffffffe0" + "00000003" + "00000000" + "00000000" + "00000000" + "0000000000000000"},
		{Header{Command: CmdUnlink, Seq: 0xd06, Device: 0x0001000f, In: true, Endpoint: 1, Victim: 0xd05},
			"00000002" + "00000d06" + "0001000f" + "00000001" + "00000001" + "00000d05" + "00000000" + "00000000" + "00000000" + "00000000" + "0000000000000000"},
		{Header{Command: RetUnlink, Seq: 0xd06, Status: -104},
			"00000004" + "00000d06" + "00000000" + "00000000" + "00000000" + "ffffff98" + "00000000" + "00000000" + "00000000" + "00000000" + "0000000000000000"},
	} {
		var b [HeaderSize]byte
		test.header.Put(&b)
		if got := hex.EncodeToString(b[:]); got != test.wire {
			t.Errorf("%+v is\n%s, expected\n%s", test.header, got, test.wire)
		}
		var h Header
		if err := h.Parse(&b); err != nil || h != test.header {
			t.Errorf("%+v came back as %+v, %v", test.header, h, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	var b [HeaderSize]byte
	for c := range Command(6) {
		b[3] = byte(c)
		f.Add(b[:])
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < HeaderSize {
			return
		}
		var h, again Header
		if h.Parse((*[HeaderSize]byte)(p)) != nil {
			return
		}
		if h.Length > MaxTransfer || h.Packets > MaxIsoPackets || h.Endpoint > 15 || h.Status > 0 {
			t.Fatalf("out of bounds: %+v", h)
		}
		var b [HeaderSize]byte
		h.Put(&b)
		if err := again.Parse(&b); err != nil || again != h {
			t.Fatalf("%+v came back as %+v, %v", h, again, err)
		}
	})
}

// conversation answers with what is given and swallows what is sent.
type conversation struct{ io.Reader }

func (conversation) Write(b []byte) (int, error) { return len(b), nil }

func FuzzList(f *testing.F) {
	d := testInfo("/sys/devices/x")
	f.Add(appendList(nil, []DeviceInfo{d, d}))
	f.Add(appendList(nil, nil))
	f.Add(appendImport(nil, StatusBusy, nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		list, err := RequestList(conversation{bytes.NewReader(p)})
		if err != nil {
			return
		}
		again, err := RequestList(conversation{bytes.NewReader(appendList(nil, list))})
		if err != nil || len(again) != len(list) {
			t.Fatalf("%+v came back as %+v, %v", list, again, err)
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add(appendOp(nil, opDevlist, StatusOK))
	f.Add(appendString(appendOp(nil, opImport, StatusOK), "1-1.2", busIDSize))
	f.Fuzz(func(t *testing.T, p []byte) {
		q, err := readRequest(bytes.NewReader(p))
		if err == nil && (q.code != opDevlist && q.code != opImport || len(q.busID) >= busIDSize+1) {
			t.Fatalf("%+v", q)
		}
	})
}

func TestImportRefused(t *testing.T) {
	d := testInfo("/sys/devices/x")
	for name, test := range map[string]struct {
		busID string
		reply []byte
		want  error
	}{
		"busy":           {"1-1", appendImport(nil, StatusBusy, nil), StatusBusy},
		"another device": {"1-2", appendImport(nil, StatusOK, &d), errProtocol},
		"another answer": {"1-1", appendList(nil, nil), errProtocol},
		"cut":            {"1-1", appendImport(nil, StatusOK, &d)[:100], io.ErrUnexpectedEOF},
	} {
		if _, err := RequestImport(conversation{bytes.NewReader(test.reply)}, test.busID); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := RequestImport(conversation{}, "a name that is too long for a bus id of USB/IP"); err == nil {
		t.Error("a long bus id is asked for")
	}
}
