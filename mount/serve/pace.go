package serve

import (
	"syscall"
	"time"

	"github.com/lxbridge/lx/mount/volume"
)

// fine times tell two changes in a row apart.
const fine = 10 * time.Millisecond

// pace is how a directory's times move while we change its names. The kernel
// asks for its attributes after each change, to check permissions; to ask the
// server each time would cost as much as the change. Once the server has told
// the times that a change of ours gave it, those that further changes give are
// known as well, as long as attributes may be kept: they differ by as much as
// the changes are apart.
type pace struct {
	mtime time.Time // what the server said after a change of ours; zero: nothing yet
	at    time.Time // when that change was made
	last  time.Time // of our last change, until the server was asked after it
	tick  uint64    // of our last change
}

// stirred notes that a name of directory i was made or removed by us. Where it
// was a directory's, only the server knows how many links i has.
func (i *inode) stirred(isDir bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now, p := time.Now(), &i.pace
	p.tick, p.last = i.fs.tick(), now
	if isDir || p.mtime.IsZero() {
		p.mtime = time.Time{}
		return
	}
	t := p.mtime.Add(now.Sub(p.at)).Truncate(i.fs.feat.TimeGranularity)
	i.attr.Mtime, i.attr.Ctime = t, t
}

// learnTimes takes what the server said of directory i when asked at tick
// asked: times of before our last change do not count. The caller holds mu.
func (i *inode) learnTimes(a *volume.Attr, asked uint64) {
	p := &i.pace
	switch {
	case asked < p.tick:
		if !p.mtime.IsZero() {
			a.Mtime, a.Ctime = i.attr.Mtime, i.attr.Ctime
		}
	case !p.last.IsZero() && i.fs.feat.TimeGranularity < fine:
		p.mtime, p.at, p.last = a.Mtime, p.last, time.Time{}
	}
}

// paced are the attributes of a directory that we are changing, where the
// server told them less than limit ago, and how long they count.
func (i *inode) paced(limit time.Duration) (a volume.Attr, valid time.Duration, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	known := i.typ == syscall.S_IFDIR && !i.pace.mtime.IsZero() && !i.pace.last.IsZero()
	valid = limit - time.Since(i.attrAt)
	return i.attr, valid, known && valid > 0
}
