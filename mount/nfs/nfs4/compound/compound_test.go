package compound

import (
	"bytes"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// TestAttributes: what Settable encodes is what Attr decodes.
func TestAttributes(t *testing.T) {
	mode, size := uint32(0o644), uint64(12345)
	owner, group := "1000", "users@example.org"
	at := time.Unix(-5, 999999999)
	set := Settable{Mode: &mode, Size: &size, Owner: &owner, Group: &group, Btime: &at}
	var e xdr.Encoder
	e.Uint32(0)
	e.Uint32(0)
	e.Uint32(1)
	e.Uint32(uint32(OpGetAttr))
	e.Uint32(0)
	set.encode(&e)
	var r Reply
	if err := r.Begin(xdr.NewDecoder(e.Bytes())); err != nil {
		t.Fatal(err)
	}
	a, err := r.GetAttr()
	if err != nil {
		t.Fatal(err)
	}
	if a.Mode != mode || a.Size != size || string(a.Owner) != owner || string(a.Group) != group || !a.Btime.Equal(at) {
		t.Errorf("decoded %+v", a)
	}
	if a.Mask != Set(AttrSize, AttrMode, AttrOwner, AttrGroup, AttrBtime) || r.Remaining() != 0 {
		t.Errorf("mask %x, %d bytes left", a.Mask, r.Remaining())
	}
}

// TestSetTimes: times are SET_TO_CLIENT_TIME4 or the server's.
func TestSetTimes(t *testing.T) {
	at := time.Unix(7, 8)
	var e xdr.Encoder
	(&Settable{Mtime: &at}).encode(&e)
	d := xdr.NewDecoder(e.Bytes())
	if n := d.Uint32(); n != 2 || d.Uint32() != 0 || d.Uint32() != 1<<(AttrMtimeSet-32) {
		t.Error("another mask")
	}
	if d.Uint32() != 16 || d.Uint32() != 1 || d.Int64() != 7 || d.Uint32() != 8 || d.Err() != nil {
		t.Error("another time")
	}
	e.Reset()
	(&Settable{ServerTimes: true}).encode(&e)
	if want := []byte{0, 0, 0, 0, 0, 0, 0, 0}; !bytes.HasSuffix(e.Bytes(), want) {
		t.Errorf("server's times: %x", e.Bytes())
	}
}

// TestCache: the server is asked to remember what must not be done twice.
func TestCache(t *testing.T) {
	for _, c := range []struct {
		build func(*Request)
		want  byte
	}{
		{func(q *Request) { q.Read(StateID{}, 0, 1) }, 0},
		{func(q *Request) { q.Write(StateID{}, 0, 0, []byte("x")) }, 0},
		{func(q *Request) { q.Remove("x") }, 1},
		{func(q *Request) { q.PutFH("x"); q.Rename("a", "b") }, 1},
	} {
		var e xdr.Encoder
		var q Request
		q.Begin(&e, 1)
		q.Sequence(Sequence{Seq: 1})
		c.build(&q)
		if got := e.Bytes()[4*3+4+16+4*4-1]; got != c.want {
			t.Errorf("sa_cachethis is %d, want %d", got, c.want)
		}
	}
}

func TestStatus(t *testing.T) {
	for st, want := range map[Status]syscall.Errno{
		OK: 0, ErrNoEnt: syscall.ENOENT, 63: syscall.ENAMETOOLONG, ErrMoved: syscall.EREMOTE,
		ErrMinorMismatch: syscall.EPROTONOSUPPORT, 99999: syscall.EIO,
	} {
		if got := st.Errno(); got != want {
			t.Errorf("%v: %v, want %v", st, got, want)
		}
	}
	var errno syscall.Errno
	if err := error(&OpError{OpOpen, ErrAccess}); !errors.As(err, &errno) || errno != syscall.EACCES || !errors.Is(err, ErrAccess) {
		t.Errorf("%v is neither EACCES nor its status", err)
	}
	for st, want := range map[Status]Class{ErrDelay: Later, ErrGrace: Later, ErrBadSession: Session, ErrExpired: State, ErrNoSpc: Final} {
		if st.Class() != want {
			t.Errorf("%v is of class %d, want %d", st, st.Class(), want)
		}
	}
}
