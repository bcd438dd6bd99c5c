package serve

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// Where several names of one directory are looked up in short order, it is
// listed once, in the background, and look-ups are answered from that for as
// long as the kernel might have kept it, had it been told of each entry when the
// server told us, as readdir(3) has it. That a name is not there is answered
// only where its absence may be kept, and from when the server was asked, since
// what others make is wanted at once. Own changes void what was listed.

const (
	fewLookups  = 4                     // so many slow ones in a listing's life are worth a listing
	slowLookup  = 50 * time.Microsecond // one that takes less is not worth sparing
	maxListed   = 1 << 16               // names kept, of all directories
	maxLife     = 30 * time.Second      // of a listing
	wastedPause = 8                     // a listing that did not pay is not made again for so many times what it took
)

// lookups counts those in a directory that took long, one after the other.
type lookups struct {
	since time.Time
	n     int
	each  time.Duration // what one takes
	again time.Time     // no listing before
}

// listing is what the server says is in a directory. FS.mu guards it.
type listing struct {
	asked uint64    // the tick at which the server was asked
	at    time.Time // when that was
	told  time.Time // when the last entries came
	names map[string]*listedName
	folds map[string]bool // the names in lower case; made when first wanted
	whole bool            // there were no other names
	saved int             // look-ups
}

// listedName is an entry, whose Node goes to who asks first.
type listedName struct {
	volume.DirEntry
	at   time.Time // when it came
	void bool      // changed by us since, or given away: the server is to be asked
}

// life is how long a listing counts: as long as an entry with its attributes.
func (f *FS) life() time.Duration {
	return min(f.opts.AttrTimeout, f.opts.EntryTimeout, maxLife)
}

// lookedUpAt is lookedUp for the attributes of i, which the kernel knows.
func (f *FS) lookedUpAt(i *inode, took time.Duration) {
	f.mu.Lock()
	p := i.parent
	f.mu.Unlock()
	if p != nil {
		f.lookedUp(p, took)
	}
}

// lookedUp notes that the server was asked for a name in p, which took so long,
// and lists p where that seems worth it.
func (f *FS) lookedUp(p *inode, took time.Duration) {
	if f.life() <= 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &p.lookups
	if took < f.slow || p.disputed {
		c.n = 0
		return
	}
	now := time.Now()
	if now.Sub(c.since) > f.life() {
		c.since, c.n = now, 0
	}
	c.n++
	c.each += (took - c.each) / time.Duration(min(c.n, 8))
	if c.n < fewLookups || p.listing != nil || now.Before(c.again) || f.listed >= maxListed || f.ctxList.Err() != nil {
		return
	}
	l := &listing{asked: f.tick(), at: now, names: map[string]*listedName{}}
	p.listing = l
	p.refs++
	f.work.Go(func() { f.keepListing(p, l) })
}

// keepListing makes a listing, waits until it is too old, and lets go of it.
func (f *FS) keepListing(p *inode, l *listing) {
	begun := time.Now()
	err := f.gather(p, l)
	took := time.Since(begun)
	if err == nil {
		old := time.NewTimer(f.life() - time.Since(l.told))
		select {
		case <-old.C:
		case <-f.ctxList.Done():
			old.Stop()
		}
	}
	f.mu.Lock()
	p.listing = nil
	f.listed -= len(l.names)
	switch {
	case err != nil: // it may be searched but not read, say: nobody asked for it
		p.lookups.again = time.Now().Add(maxLife)
	case time.Duration(l.saved)*p.lookups.each < took:
		p.lookups.again = time.Now().Add(wastedPause * took)
	}
	f.mu.Unlock()
	for _, e := range l.names {
		if e.Node != nil {
			f.vol.Forget(e.Node)
		}
	}
	f.unref(p, 1)
}

func (f *FS) gather(p *inode, l *listing) (err error) {
	s, err := f.vol.ReadDir(f.ctxList, p.node)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for {
		batch, err := s.Next(f.ctxList)
		f.mu.Lock()
		if l.whole = errors.Is(err, io.EOF); l.whole {
			err = nil
		}
		known := len(l.names)
		l.told = time.Now()
		spare := f.addListed(l, batch)
		stuck := len(batch) > 0 && len(l.names) == known
		full := f.listed >= maxListed
		f.mu.Unlock()
		for _, n := range spare {
			f.vol.Forget(n)
		}
		switch {
		case err != nil || l.whole || full:
			return err
		case stuck: // or a server that goes in circles would have us ask for ever
			return errors.New("a listing does not go on")
		}
	}
}

// addListed adds entries to l and answers the nodes it has no use for. What
// has several names may have been changed by another of them: the server is
// asked for such. The caller holds mu.
func (f *FS) addListed(l *listing, batch []volume.DirEntry) (spare []volume.Node) {
	for _, e := range batch {
		if l.names[e.Name] == nil && validName(e.Name) {
			many := e.Attr.Nlink > 1 && e.Attr.Mode&syscall.S_IFMT != syscall.S_IFDIR
			l.names[e.Name] = &listedName{e, l.told, e.Node == nil || many}
			f.listed++
		} else if e.Node != nil {
			spare = append(spare, e.Node)
		}
	}
	return spare
}

// void notes that what name in p is has changed. The caller holds mu.
func (f *FS) void(p *inode, name string) {
	l := p.listing
	if l == nil {
		return
	}
	e := l.names[name]
	if e == nil {
		e = &listedName{}
		l.names[name] = e
		f.listed++
		if l.folds != nil {
			l.folds[strings.ToLower(name)] = true
		}
	}
	e.void = true
}

// listedAs answers a look-up from a listing; ok is false where the server must
// be asked.
func (f *FS) listedAs(p *inode, name string) (e fuse.Entry, no syscall.Errno, ok bool) {
	f.mu.Lock()
	l := p.listing
	if l == nil || p.disputed {
		f.mu.Unlock()
		return e, 0, false
	}
	found, at := l.names[name], l.at
	if found != nil {
		at = found.at
	}
	age := time.Since(at)
	switch {
	case age >= f.life(), found != nil && found.void:
		f.mu.Unlock()
		return e, 0, false
	case found == nil:
		ok = l.whole && age < f.opts.NegativeTimeout && !f.opts.AskAbsent && !l.mayBe(name)
		if ok {
			l.saved++
		}
		f.mu.Unlock()
		if !ok {
			return e, 0, false
		}
		e, no = f.absent()
		e.EntryValid -= age
		return e, no, true
	}
	l.saved++
	n, a := found.Node, found.Attr
	found.Node, found.void = nil, true
	f.mu.Unlock()
	i, a := f.intern(p, name, n, a, l.asked)
	e = f.entry(i, a)
	e.EntryValid, e.AttrValid = e.EntryValid-age, e.AttrValid-age
	return e, 0, true
}

// listedAttr answers attributes of an object that nobody has open from a
// listing, with how long they count.
func (f *FS) listedAttr(i *inode) (a volume.Attr, valid time.Duration, ok bool) {
	f.mu.Lock()
	p := i.parent
	if p == nil || p.listing == nil || p.disputed {
		f.mu.Unlock()
		return a, 0, false
	}
	l := p.listing
	e, age := l.names[i.name], f.life()
	if e != nil {
		age = time.Since(e.at)
	}
	if e == nil || e.void || e.Node != i.node || age >= f.life() || e.Attr.Mode&syscall.S_IFMT != i.typ || i.open() {
		f.mu.Unlock()
		return a, 0, false
	}
	l.saved++
	a = e.Attr
	f.mu.Unlock()
	return i.learn(a, l.asked), f.opts.AttrTimeout - age, true
}

// mayBe says that a server could know name, which it did not list, by another
// spelling: in the other case, normalised, shortened to 8.3, or without what
// Windows cuts off at the end. One that may be too long is the server's to
// refuse.
func (l *listing) mayBe(name string) bool {
	if len(name) > 255 || strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
		return true
	}
	for i := range len(name) {
		if name[i] == '~' || name[i] >= 0x80 {
			return true
		}
	}
	if l.folds == nil {
		l.folds = make(map[string]bool, len(l.names))
		for n := range l.names {
			l.folds[strings.ToLower(n)] = true
		}
	}
	return l.folds[strings.ToLower(name)]
}
