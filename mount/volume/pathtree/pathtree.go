// Package pathtree keeps the nodes of volumes whose protocol addresses objects
// by path (SMB, SFTP): it follows renames, so that a node's path is right
// whatever happened to its ancestors since it was found.
package pathtree

import (
	"strings"
	"sync"
	"syscall"
)

// Tree is the part of a remote file tree that somebody holds nodes of. It
// changes no server: callers tell it what the server has done. All methods are
// safe for concurrent use.
type Tree struct {
	fold func(string) string
	root *Node

	mu sync.Mutex // guards all nodes
}

// Node is one place in the tree. It serves as a volume.Node.
type Node struct {
	name     string
	parent   *Node // nil for the root and for detached nodes
	children map[string]*Node
	refs     uint64
}

// New is an empty tree. fold makes names that the server takes for the same
// equal (strings.ToUpper where case does not count); nil leaves them as they are.
func New(fold func(string) string) *Tree {
	if fold == nil {
		fold = func(s string) string { return s }
	}
	return &Tree{fold: fold, root: &Node{refs: 1}}
}

// Root is the mounted directory. It is never detached or forgotten.
func (t *Tree) Root() *Node { return t.root }

// Child finds or makes the node for name in dir and counts one reference to it,
// given back by Forget.
func (t *Tree) Child(dir *Node, name string) *Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := dir.children[t.fold(name)]
	if n == nil {
		n = &Node{}
		t.attach(n, dir, name)
	}
	n.refs++
	return n
}

// Forget gives one reference to n back and reports whether it was the last.
// The node must then not be used again.
func (t *Tree) Forget(n *Node) (last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n == t.root || n.refs == 0 {
		return false
	}
	n.refs--
	last = n.refs == 0
	t.prune(n)
	return last
}

// Path is the names from the root to n joined by slashes, "" for the root. It
// fails with ESTALE where n or an ancestor is detached.
func (t *Tree) Path(n *Node) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.path(n)
}

// Join is the path of name in dir.
func (t *Tree) Join(dir *Node, name string) (string, error) {
	p, err := t.Path(dir)
	if err != nil || p == "" {
		return name, err
	}
	return p + "/" + name, nil
}

// Rename follows a rename on the server. The node that newName had, if it is
// another, is detached. To keep an open file whose name is removed, rename it
// to a hidden name on the server and here. EINVAL where newDir lies in what is
// renamed: then nothing is changed.
func (t *Tree) Rename(dir *Node, name string, newDir *Node, newName string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, over := dir.children[t.fold(name)], newDir.children[t.fold(newName)]
	if n != nil && within(newDir, n) {
		return syscall.EINVAL
	}
	if over != nil && over != n {
		t.detach(over)
	}
	if n != nil {
		t.move(n, newDir, newName)
	}
	return nil
}

// Exchange follows a RENAME_EXCHANGE. EINVAL, and no change, where one of the
// two lies in the other.
func (t *Tree) Exchange(dir *Node, name string, newDir *Node, newName string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, b := dir.children[t.fold(name)], newDir.children[t.fold(newName)]
	if a == b {
		return nil
	}
	if a != nil && within(newDir, a) || b != nil && within(dir, b) {
		return syscall.EINVAL
	}
	// Both leave their places before either arrives.
	if a != nil {
		t.detach(a)
	}
	if b != nil {
		t.detach(b)
		t.attach(b, dir, name)
	}
	if a != nil {
		t.attach(a, newDir, newName)
	}
	return nil
}

// Remove follows the removal of a name and answers the node it had, now
// detached, or nil where nobody held one. Open handles of the node stay good;
// its path is ESTALE.
func (t *Tree) Remove(dir *Node, name string) *Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := dir.children[t.fold(name)]
	if n != nil {
		t.detach(n)
	}
	return n
}

// Attach gives a node another place, for a detached one found again under a
// hidden name. The node that was there is detached. EINVAL where dir lies in n.
func (t *Tree) Attach(n, dir *Node, name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n == t.root || within(dir, n) {
		return syscall.EINVAL
	}
	if over := dir.children[t.fold(name)]; over != nil && over != n {
		t.detach(over)
	}
	t.move(n, dir, name)
	return nil
}

func (t *Tree) path(n *Node) (string, error) {
	var names []string
	for ; n.parent != nil; n = n.parent {
		names = append(names, n.name)
	}
	if n != t.root {
		return "", syscall.ESTALE
	}
	for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
		names[i], names[j] = names[j], names[i]
	}
	return strings.Join(names, "/"), nil
}

// move takes n to another place. The new parent has it before the old one is
// pruned, since that may lie above the new one.
func (t *Tree) move(n, dir *Node, name string) {
	old := n.parent
	if old != nil {
		delete(old.children, t.fold(n.name))
	}
	t.attach(n, dir, name)
	if old != nil {
		t.prune(old)
	}
}

func (t *Tree) attach(n, dir *Node, name string) {
	if dir.children == nil {
		dir.children = map[string]*Node{}
	}
	n.parent, n.name = dir, name
	dir.children[t.fold(name)] = n
}

func (t *Tree) detach(n *Node) {
	dir := n.parent
	delete(dir.children, t.fold(n.name))
	n.parent = nil
	t.prune(dir)
}

// prune drops n, and then its ancestors, while nobody refers to them.
func (t *Tree) prune(n *Node) {
	for n != t.root && n.refs == 0 && len(n.children) == 0 && n.parent != nil {
		dir := n.parent
		delete(dir.children, t.fold(n.name))
		n.parent = nil
		n = dir
	}
}

// within reports whether n is top or lies below it.
func within(n, top *Node) bool {
	for ; n != nil; n = n.parent {
		if n == top {
			return true
		}
	}
	return false
}
