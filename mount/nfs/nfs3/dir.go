package nfs3

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/xdr"
	"github.com/lxbridge/lx/mount/volume"
)

// Sizes of one answer to READDIR and READDIRPLUS, in bytes.
const (
	minList = 32 << 10
	maxList = 128 << 10

	maxTrips = 10
)

// listing is a directory being read.
type listing struct {
	v        *Volume
	dir      *node
	cookie   uint64
	verifier [8]byte
	end      bool
}

// ReadDir implements volume.Volume.
func (v *Volume) ReadDir(ctx context.Context, dir volume.Node) (volume.DirStream, error) {
	d := dir.(*node)
	err := ctx.Err()
	if d.typ != syscall.S_IFDIR {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, v.failure("list", "", err)
	}
	return volume.Ahead(v, &listing{v: v, dir: d}), nil
}

// Close implements volume.DirStream. The server keeps nothing of a listing.
func (l *listing) Close() error { return nil }

// Next implements volume.DirStream.
func (l *listing) Next(ctx context.Context) ([]volume.DirEntry, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, l.v.failure("list", "", err)
		}
		if l.end {
			return nil, io.EOF
		}
		entries, err := l.read(ctx)
		if err != nil {
			return nil, l.v.failure("list", "", err)
		}
		if len(entries) > 0 {
			return entries, nil
		}
	}
}

func (l *listing) read(ctx context.Context) ([]volume.DirEntry, error) {
	for trips := 0; ; {
		plus := l.v.plus.Load()
		entries, err := l.ask(ctx, plus)
		switch {
		case errors.Is(err, syscall.ENOENT) && trips < maxTrips:
			trips++ // no error of READDIR's: the server tripped over a name that was removed meanwhile
		case plus && errors.Is(err, status(errNotSupp)):
			l.v.plus.Store(false)
		case errors.Is(err, status(errBadCookie)) && l.verifier != [8]byte{}:
			// The directory has changed. Most servers can still go on from a
			// cookie if they are not held to what they said of it.
			l.verifier = [8]byte{}
		default:
			return entries, err
		}
	}
}

// ask reads one answer's worth.
func (l *listing) ask(ctx context.Context, plus bool) ([]volume.DirEntry, error) {
	v := l.v
	proc := uint32(procReaddir)
	if plus {
		proc = procReaddirplus
	}
	call := v.call(ctx, proc, l.dir)
	defer call.Free()
	call.Args.Uint64(l.cookie)
	call.Args.Fixed(l.verifier[:])
	call.Args.Uint32(v.list)
	if plus {
		call.Args.Uint32(v.list)
	}
	if err := v.do(ctx, call); err != nil {
		return nil, err
	}
	d := &call.Results
	v.postAttr(d, nil)
	verifier := d.Fixed(8)
	entries, cookie, end, err := l.entries(d, plus)
	if err == nil && cookie == l.cookie && !end {
		err = errors.New("a listing does not go on")
	}
	if err == nil {
		err = l.complete(ctx, entries)
	}
	if err != nil {
		for _, e := range entries {
			if e.Node != nil {
				v.Forget(e.Node)
			}
		}
		return nil, err
	}
	copy(l.verifier[:], verifier)
	l.cookie, l.end = cookie, end
	return entries, nil
}

// entries decodes dirlist3 or dirlistplus3. Entries may come with an error: their
// nodes are to be forgotten.
func (l *listing) entries(d *xdr.Decoder, plus bool) (entries []volume.DirEntry, cookie uint64, end bool, err error) {
	v := l.v
	entries = make([]volume.DirEntry, 0, d.Remaining()/128)
	cookie = l.cookie
	for d.Bool() {
		var e volume.DirEntry
		d.Uint64() // fileid
		e.Name = d.String(maxPath)
		cookie = d.Uint64()
		if plus {
			known := v.postAttr(d, &e.Attr)
			var handle []byte
			if d.Bool() {
				handle = d.Opaque(maxHandle)
			}
			if d.Err() != nil {
				break
			}
			if known && handle != nil && e.Name != "." && e.Name != ".." {
				e.Node = v.node(handle, e.Attr.Mode&syscall.S_IFMT)
			}
		}
		if d.Err() == nil && e.Name != "." && e.Name != ".." {
			entries = append(entries, e)
		}
	}
	end = d.Bool()
	return entries, cookie, end, d.Err()
}

// lookups is how many names are looked up at once.
const lookups = 16

// complete gives each entry its type, by looking up those that came without.
// What was removed meanwhile becomes a regular file without a node.
func (l *listing) complete(ctx context.Context, entries []volume.DirEntry) error {
	var missing []*volume.DirEntry
	for i := range entries {
		if e := &entries[i]; e.Node == nil {
			missing = append(missing, e)
		} else {
			e.Type = volume.FileType(e.Attr.Mode)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var wg sync.WaitGroup
	errs := make([]error, lookups)
	for w := range lookups {
		wg.Go(func() {
			for i := w; i < len(missing) && errs[w] == nil; i += lookups {
				e := missing[i]
				n, a, err := l.v.lookup(ctx, l.dir, e.Name)
				switch {
				case err == nil:
					e.Node, e.Attr, e.Type = n, a, volume.FileType(a.Mode)
				case ctx.Err() != nil:
					errs[w] = err
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
