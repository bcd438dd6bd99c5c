// Package nfs3 is NFS version 3 (RFC 1813) as a volume: with the MOUNT protocol
// and the portmapper to find the export, and NLM version 4 for locks.
package nfs3

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
)

// Port is NFS's own, where the portmapper knows no other.
const Port = 2049

// Config says what to mount and how.
type Config struct {
	// Calls is how the server's programs are called; Addr, Program and Version
	// are set here. Network is "tcp", "tcp4" or "tcp6".
	Calls rpc.Config
	// Host is a name or an address, without brackets. Port 0 asks the
	// portmapper (rpcbind for IPv6).
	Host string
	Port int
	Path string // begins with a slash

	MountHost    string // where mountd is; empty: Host
	MountPort    int    // 0: the portmapper is asked
	MountNetwork string // "udp…" or "tcp…"; empty: Calls.Network

	// Auth is the credential of the caller of a context; of who mounts where
	// there is none. Flavor is its pseudo-flavour (RFC 2623 2.3); 0: AUTH_SYS.
	Auth   func(ctx context.Context) rpc.Auth
	Flavor uint32
	// Authenticate, if set, answers what takes Auth's place for all but MOUNT:
	// Kerberos, which is set up with the server that calls speaks of. done is
	// called when it is not used any more.
	Authenticate func(ctx context.Context, calls rpc.Config) (auth func(context.Context) rpc.Auth, done func(context.Context), err error)
	// Machine names this client to the lock manager.
	Machine string

	ReadSize, WriteSize int  // bytes; 0: the largest that both sides can
	NameMax             int  // 0: the server says
	NoLocks             bool // no lock manager is used: the volume is no volume.Locker
	NoReadDirPlus       bool // listings come without attributes

	// Note is told of failures that no caller sees.
	Note func(error)
}

// maxTransfer bounds one READ or WRITE, in bytes.
const maxTransfer = 1 << 20

// Volume is a mounted export.
type Volume struct {
	cfg    Config
	client *rpc.Client
	ctx    context.Context // of what goes on beside callers; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	root   *node
	fsid   uint64 // the root's
	seed   maphash.Seed
	feat   volume.Features
	read   int // bytes of one READ
	write  int
	list   uint32 // bytes of one READDIR
	block  uint32 // for statfs
	plus   atomic.Bool
	locks  *locks                // nil with NoLocks
	done   func(context.Context) // with Auth; nil where that is not Authenticate's

	unsafe  atomic.Int64 // bytes of writes that are not committed
	chunks  sync.Pool    // *[]byte of one WRITE
	shut    atomic.Bool
	mountds rpc.Config
	mountAs rpc.Auth // towards mountd

	mu    sync.Mutex // guards nodes, and each node's refs and opens
	nodes map[string]*node
}

// locking is a Volume with a lock manager.
type locking struct{ *Volume }

// node is one file handle.
type node struct {
	handle string
	typ    uint32 // S_IFMT bits
	refs   int    // look-ups and open handles
	opens  int    // open handles
	data   unstable
}

var (
	_ volume.Volume     = (*Volume)(nil)
	_ volume.Symlinker  = (*Volume)(nil)
	_ volume.Readlinker = (*Volume)(nil)
	_ volume.Linker     = (*Volume)(nil)
	_ volume.Mknoder    = (*Volume)(nil)
	_ volume.Accesser   = (*Volume)(nil)
	_ volume.Locker     = locking{}
)

// Dial mounts an export. ctx bounds the mounting only.
func Dial(ctx context.Context, cfg Config) (volume.Volume, error) {
	if cfg.Flavor == 0 {
		cfg.Flavor = uint32(rpc.FlavorSys)
	}
	if cfg.MountHost == "" {
		cfg.MountHost = cfg.Host
	}
	if cfg.MountNetwork == "" {
		cfg.MountNetwork = cfg.Calls.Network
	}
	if cfg.Note == nil {
		cfg.Note = func(error) {}
	}
	v := &Volume{cfg: cfg, nodes: map[string]*node{}, seed: maphash.MakeSeed()}
	v.plus.Store(!cfg.NoReadDirPlus)
	v.ctx, v.cancel = context.WithCancel(context.Background())
	if err := v.dial(ctx); err != nil {
		return nil, errors.Join(v.failure("mount", cfg.Host+":"+cfg.Path, err), v.Close())
	}
	if v.locks == nil {
		return v, nil
	}
	return locking{v}, nil
}

func (v *Volume) dial(ctx context.Context) error {
	handle, err := v.mount(ctx)
	if err != nil {
		return err
	}
	port := v.cfg.Port
	if port == 0 {
		if port, err = v.port(ctx, v.cfg.Host, v.cfg.Calls.Network, program, version); err != nil {
			if !errors.Is(err, errNotRegistered) {
				return err
			}
			port = Port
		}
	}
	c := v.calls(v.cfg.Host, v.cfg.Calls.Network, port, program, version)
	c.MaxRecord = maxTransfer + 64<<10
	if v.cfg.Authenticate != nil {
		if v.cfg.Auth, v.done, err = v.cfg.Authenticate(ctx, c); err != nil {
			return err
		}
	}
	lost := c.Lost
	c.Lost = func(n *rpc.Conn, err error) {
		if lost != nil {
			lost(n, err)
		}
		v.disconnected()
	}
	if v.client, err = rpc.Dial(ctx, c); err != nil {
		return err
	}
	v.root = v.node(handle, syscall.S_IFDIR)
	if err := v.limits(ctx); err != nil {
		return err
	}
	v.chunks.New = func() any { p := make([]byte, v.write); return &p }
	if !v.cfg.NoLocks {
		v.locks = newLocks(v)
	}
	return nil
}

// limits asks for what the server can: FSINFO, PATHCONF.
func (v *Volume) limits(ctx context.Context) error {
	a, fsid, err := v.getattr(ctx, v.root)
	if err != nil {
		return err
	}
	v.root.typ, v.fsid = a.Mode&syscall.S_IFMT, fsid
	call := v.call(ctx, procFSInfo, v.root)
	defer call.Free()
	if err := v.do(ctx, call); err != nil {
		return err
	}
	d := &call.Results
	v.postAttr(d, nil)
	readMax, _, _ := d.Uint32(), d.Uint32(), d.Uint32()
	writeMax, _, writeMult := d.Uint32(), d.Uint32(), d.Uint32()
	listPref := d.Uint32()
	d.Uint64() // largest file
	granularity := time.Duration(d.Uint32())*time.Second + time.Duration(d.Uint32())
	properties := d.Uint32()
	if err := d.Err(); err != nil {
		return err
	}
	const canSetTime = 0x10
	if properties&canSetTime == 0 || granularity == 0 {
		granularity = max(granularity, time.Second)
	}
	v.read, v.write = transfer(readMax, v.cfg.ReadSize), transfer(writeMax, v.cfg.WriteSize)
	v.list = min(max(listPref, minList), maxList)
	v.block = min(max(writeMult, 4096), maxTransfer)

	v.feat = volume.Features{RealModes: true, MaxRead: v.read, MaxWrite: v.write, TimeGranularity: granularity, NameMax: 255}
	call.Args.Reset()
	call.Proc = procPathconf
	call.Args.String(v.root.handle)
	switch err := v.do(ctx, call); {
	case err == nil:
		v.postAttr(d, nil)
		d.Uint32() // most links
		if n := d.Uint32(); n > 0 && n <= 255 {
			v.feat.NameMax = int(n)
		}
		d.Uint64() // no_trunc, chown_restricted
		v.feat.CaseInsensitive = d.Bool()
		if err := d.Err(); err != nil {
			return err
		}
	case !errors.Is(err, status(errNotSupp)):
		return err
	}
	if v.cfg.NameMax > 0 {
		v.feat.NameMax = min(v.feat.NameMax, v.cfg.NameMax)
	}
	return nil
}

// transfer is the size of one READ or WRITE, given what the server can and
// what is wanted; either may be 0.
func transfer(limit uint32, want int) int {
	n := maxTransfer
	if limit > 0 {
		n = min(n, int(limit))
	}
	if want > 0 {
		n = min(n, want)
	}
	return max(n, 1024)
}

// calls is how a program of the server's is called.
func (v *Volume) calls(host, network string, port int, program, version uint32) rpc.Config {
	c := v.cfg.Calls
	c.Network, c.Addr, c.Program, c.Version = network, address(host, port), program, version
	return c
}

// Root implements volume.Volume.
func (v *Volume) Root() volume.Node { return v.root }

// Features implements volume.Volume.
func (v *Volume) Features() volume.Features { return v.feat }

// Close implements volume.Volume. What is not committed is lost, and told.
func (v *Volume) Close() error {
	if v.shut.Swap(true) {
		return nil
	}
	v.cancel()
	if v.locks != nil {
		v.locks.close()
	}
	var err error
	if v.client != nil {
		err = v.client.Close()
		v.unmount()
	}
	v.wg.Wait()
	if v.done != nil {
		ctx, cancel := context.WithTimeout(context.Background(), unmountWait)
		defer cancel()
		v.done(ctx)
	}
	if n := v.unsafe.Load(); n > 0 {
		err = errors.Join(err, &volume.Error{Op: "close", Name: v.cfg.Host + ":" + v.cfg.Path, Errno: syscall.EIO,
			Reason: fmt.Sprintf("%d bytes that were written have not been committed", n)})
	}
	return err
}

// node finds or makes the node of a handle and counts a look-up.
func (v *Volume) node(handle []byte, typ uint32) *node {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.nodes[string(handle)]
	if n == nil {
		n = &node{handle: string(handle), typ: typ}
		v.nodes[n.handle] = n
	}
	n.refs++
	return n
}

// Forget implements volume.Volume.
func (v *Volume) Forget(n volume.Node) { v.forget(n.(*node)) }

func (v *Volume) forget(n *node) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n.refs--; n.refs == 0 && n != v.root {
		delete(v.nodes, n.handle)
	}
}

// opened counts a reference to n for a handle.
func (v *Volume) opened(n *node) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n.refs++
	n.opens++
}

// closed says whether a handle was the last of n. Its reference stays.
func (v *Volume) closed(n *node) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	n.opens--
	return n.opens == 0
}

func (v *Volume) isOpen(n *node) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return n.opens > 0
}

// Statfs implements volume.Volume.
func (v *Volume) Statfs(ctx context.Context) (fuse.Statfs, error) {
	call := v.call(ctx, procFSStat, v.root)
	defer call.Free()
	if err := v.do(ctx, call); err != nil {
		return fuse.Statfs{}, v.failure("statfs", v.cfg.Path, err)
	}
	d := &call.Results
	v.postAttr(d, nil)
	b := uint64(v.block)
	s := fuse.Statfs{Blocks: d.Uint64() / b, Bfree: d.Uint64() / b, Bavail: d.Uint64() / b, Files: d.Uint64(), Ffree: d.Uint64(),
		Bsize: v.block, Frsize: v.block, Namelen: uint32(v.feat.NameMax)}
	return s, v.failure("statfs", v.cfg.Path, d.Err())
}
