package compound

import (
	"time"

	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// Mask is a set of attributes (bitmap4), by number.
type Mask [3]uint32

// Set is a Mask of attributes.
func Set(attrs ...int) (m Mask) {
	for _, a := range attrs {
		m[a/32] |= 1 << (a % 32)
	}
	return m
}

// Has reports whether an attribute is in m.
func (m Mask) Has(a int) bool { return m[a/32]&(1<<(a%32)) != 0 }

// And is what is in both.
func (m Mask) And(o Mask) Mask { return Mask{m[0] & o[0], m[1] & o[1], m[2] & o[2]} }

// Or is what is in either.
func (m Mask) Or(o Mask) Mask { return Mask{m[0] | o[0], m[1] | o[1], m[2] | o[2]} }

func (m Mask) encode(e *xdr.Encoder) {
	n := len(m)
	for n > 0 && m[n-1] == 0 {
		n--
	}
	e.Uint32(uint32(n))
	for _, w := range m[:n] {
		e.Uint32(w)
	}
}

// Attributes by number (RFC 8881, section 5.8; RFC 8276; RFC 8275).
const (
	AttrSupported       = 0
	AttrType            = 1
	AttrFHExpireType    = 2
	AttrChange          = 3
	AttrSize            = 4
	AttrFSID            = 8
	AttrLeaseTime       = 10
	AttrReadDirError    = 11
	AttrACL             = 12
	AttrCaseInsensitive = 16
	AttrFH              = 19
	AttrFileID          = 20
	AttrFilesAvail      = 21
	AttrFilesFree       = 22
	AttrFilesTotal      = 23
	AttrFSLocations     = 24
	AttrMaxName         = 29
	AttrMaxRead         = 30
	AttrMaxWrite        = 31
	AttrMode            = 33
	AttrNumLinks        = 35
	AttrOwner           = 36
	AttrGroup           = 37
	AttrRawDev          = 41
	AttrSpaceAvail      = 42
	AttrSpaceFree       = 43
	AttrSpaceTotal      = 44
	AttrSpaceUsed       = 45
	AttrAtime           = 47
	AttrAtimeSet        = 48
	AttrBtime           = 50
	AttrTimeDelta       = 51
	AttrCtime           = 52
	AttrMtime           = 53
	AttrMtimeSet        = 54
	AttrMountedOn       = 55
	AttrExclCreat       = 75
	AttrModeUmask       = 81
	AttrXattr           = 82
)

// FSID names a file system at a server.
type FSID struct{ Major, Minor uint64 }

// Location is where a file system is to be found: a path on any of these servers.
type Location struct {
	Servers []string
	Path    []string
}

// Attr is what a server told of an object: the attributes in Mask. Byte slices
// alias the answer.
type Attr struct {
	Mask                                    Mask
	Supported, ExclCreat                    Mask
	Type, FHExpireType, LeaseTime           uint32
	Change, Size, FileID, MountedOn         uint64
	FSID                                    FSID
	Error                                   Status // of an entry whose attributes cannot be told
	ACL                                     []byte // as XDR, from the count of entries on
	CaseInsensitive, Xattr                  bool
	FH                                      []byte
	FilesAvail, FilesFree, FilesTotal       uint64
	MaxRead, MaxWrite                       uint64
	MaxName, Mode, NumLinks, Major, Minor   uint32
	Owner, Group                            []byte
	SpaceAvail, SpaceFree, SpaceTotal, Used uint64
	Atime, Mtime, Ctime, Btime              time.Time
	TimeDelta                               time.Duration
	Root                                    []string // of the file system in the server's name space
	Locations                               []Location
}

// GetAttr is the result of GETATTR.
func (r *Reply) GetAttr() (a Attr, err error) {
	if err := r.Next(OpGetAttr); err != nil {
		return a, err
	}
	a.decode(r)
	return a, r.Err()
}

func (r *Reply) time() time.Time {
	sec, nsec := r.Int64(), r.Uint32()
	if nsec >= 1e9 {
		r.Fail("%d nanoseconds", nsec)
	}
	return time.Unix(sec, int64(nsec))
}

func (r *Reply) path() []string {
	out := make([]string, 0, 4)
	for range r.Len(1024, 4) {
		out = append(out, r.String(maxOpaque))
	}
	return out
}

// decode reads a fattr4.
func (a *Attr) decode(r *Reply) {
	*a = Attr{Mask: r.bitmap()}
	n := int(r.Uint32())
	end := r.Remaining() - n
	if r.Err() == nil && end < 0 {
		r.Fail("%d bytes of attributes, %d left", n, r.Remaining())
	}
	for w, bits := range a.Mask {
		for b := 0; bits != 0; b, bits = b+1, bits>>1 {
			if bits&1 != 0 {
				a.one(r, w*32+b)
			}
			if r.Err() != nil {
				return
			}
		}
	}
	if r.Err() == nil && r.Remaining() < end {
		r.Fail("attributes are longer than they say")
		return
	}
	r.Skip(r.Remaining() - end)
}

func (a *Attr) one(r *Reply, attr int) {
	switch attr {
	case AttrSupported:
		a.Supported = r.bitmap()
	case AttrType:
		a.Type = r.Uint32()
	case AttrFHExpireType:
		a.FHExpireType = r.Uint32()
	case AttrChange:
		a.Change = r.Uint64()
	case AttrSize:
		a.Size = r.Uint64()
	case AttrFSID:
		a.FSID = FSID{r.Uint64(), r.Uint64()}
	case AttrLeaseTime:
		a.LeaseTime = r.Uint32()
	case AttrReadDirError:
		a.Error = Status(r.Uint32())
	case AttrACL:
		a.ACL = r.acl()
	case AttrCaseInsensitive:
		a.CaseInsensitive = r.Bool()
	case AttrFH:
		a.FH = r.Opaque(MaxFH)
	case AttrFileID:
		a.FileID = r.Uint64()
	case AttrFilesAvail:
		a.FilesAvail = r.Uint64()
	case AttrFilesFree:
		a.FilesFree = r.Uint64()
	case AttrFilesTotal:
		a.FilesTotal = r.Uint64()
	case AttrFSLocations:
		a.Root = r.path()
		for range r.Len(64, 8) {
			var l Location
			for range r.Len(64, 4) {
				l.Servers = append(l.Servers, r.String(maxOpaque))
			}
			l.Path = r.path()
			a.Locations = append(a.Locations, l)
		}
	case AttrMaxName:
		a.MaxName = r.Uint32()
	case AttrMaxRead:
		a.MaxRead = r.Uint64()
	case AttrMaxWrite:
		a.MaxWrite = r.Uint64()
	case AttrMode:
		a.Mode = r.Uint32()
	case AttrNumLinks:
		a.NumLinks = r.Uint32()
	case AttrOwner:
		a.Owner = r.Opaque(maxOpaque)
	case AttrGroup:
		a.Group = r.Opaque(maxOpaque)
	case AttrRawDev:
		a.Major, a.Minor = r.Uint32(), r.Uint32()
	case AttrSpaceAvail:
		a.SpaceAvail = r.Uint64()
	case AttrSpaceFree:
		a.SpaceFree = r.Uint64()
	case AttrSpaceTotal:
		a.SpaceTotal = r.Uint64()
	case AttrSpaceUsed:
		a.Used = r.Uint64()
	case AttrAtime:
		a.Atime = r.time()
	case AttrBtime:
		a.Btime = r.time()
	case AttrTimeDelta:
		sec, nsec := r.Int64(), r.Uint32()
		a.TimeDelta = time.Duration(min(max(sec, 0), 3600))*time.Second + time.Duration(nsec)
	case AttrCtime:
		a.Ctime = r.time()
	case AttrMtime:
		a.Mtime = r.time()
	case AttrMountedOn:
		a.MountedOn = r.Uint64()
	case AttrExclCreat:
		a.ExclCreat = r.bitmap()
	case AttrXattr:
		a.Xattr = r.Bool()
	default:
		r.Fail("attribute %d was not asked for", attr)
	}
}

// acl reads an nfsace4<> and answers it as it came, in the form that
// system.nfs4_acl has.
func (r *Reply) acl() []byte {
	var e xdr.Encoder
	n := r.Len(4096, 16)
	e.Uint32(uint32(n))
	for range n {
		e.Uint32(r.Uint32())
		e.Uint32(r.Uint32())
		e.Uint32(r.Uint32())
		e.Opaque(r.Opaque(maxOpaque))
	}
	return e.Bytes()
}

// CheckACL says what is wrong with an ACL in the form of system.nfs4_acl.
func CheckACL(p []byte) error {
	r := Reply{Decoder: xdr.NewDecoder(p)}
	r.acl()
	if r.Err() == nil && r.Remaining() > 0 {
		r.Fail("%d bytes after the ACL", r.Remaining())
	}
	return r.Err()
}

// Settable is the attributes that SETATTR, CREATE and OPEN set: those not nil.
type Settable struct {
	Size         *uint64
	ACL          []byte // as Attr's
	Mode         *uint32
	Owner, Group *string
	Atime, Mtime *time.Time
	Btime        *time.Time
	// ServerTimes sets both times to the server's now.
	ServerTimes bool
}

// Mask is what is set.
func (s *Settable) Mask() (m Mask) {
	for a, set := range map[int]bool{
		AttrSize: s.Size != nil, AttrACL: s.ACL != nil, AttrMode: s.Mode != nil, AttrOwner: s.Owner != nil, AttrGroup: s.Group != nil,
		AttrAtimeSet: s.Atime != nil || s.ServerTimes, AttrMtimeSet: s.Mtime != nil || s.ServerTimes, AttrBtime: s.Btime != nil,
	} {
		if set {
			m = m.Or(Set(a))
		}
	}
	return m
}

// encode appends a fattr4; the values stand in the order of their numbers.
func (s *Settable) encode(e *xdr.Encoder) {
	s.Mask().encode(e)
	m := e.Hold()
	if s.Size != nil {
		e.Uint64(*s.Size)
	}
	if s.ACL != nil {
		e.Fixed(s.ACL)
	}
	if s.Mode != nil {
		e.Uint32(*s.Mode)
	}
	if s.Owner != nil {
		e.String(*s.Owner)
	}
	if s.Group != nil {
		e.String(*s.Group)
	}
	s.time(e, s.Atime)
	if s.Btime != nil {
		instant(e, *s.Btime)
	}
	s.time(e, s.Mtime)
	e.Set(m, uint32(e.Since(m)))
}

// time appends a settime4, if it is to be set.
func (s *Settable) time(e *xdr.Encoder, t *time.Time) {
	switch {
	case t != nil:
		e.Uint32(1) // SET_TO_CLIENT_TIME4
		instant(e, *t)
	case s.ServerTimes:
		e.Uint32(0)
	}
}

func instant(e *xdr.Encoder, t time.Time) {
	e.Int64(t.Unix())
	e.Uint32(uint32(t.Nanosecond()))
}
