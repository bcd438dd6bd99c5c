package pathtree

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// walk makes the nodes of a path and keeps a reference to the last only.
func walk(t *Tree, path string) *Node {
	n := t.Root()
	for _, name := range strings.Split(path, "/") {
		c := t.Child(n, name)
		if n != t.Root() {
			t.Forget(n)
		}
		n = c
	}
	return n
}

func wantPath(t *testing.T, tree *Tree, n *Node, want string) {
	t.Helper()
	if got, err := tree.Path(n); err != nil || got != want {
		t.Errorf("Path = %q, %v; want %q", got, err, want)
	}
}

func wantStale(t *testing.T, tree *Tree, n *Node) {
	t.Helper()
	if got, err := tree.Path(n); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("Path = %q, %v; want ESTALE", got, err)
	}
}

func TestPathFollowsRenamesOfAncestors(t *testing.T) {
	tree := New(nil)
	f := walk(tree, "a/b/f")
	wantPath(t, tree, f, "a/b/f")
	if p, err := tree.Join(f, "x"); p != "a/b/f/x" || err != nil {
		t.Errorf("Join = %q, %v", p, err)
	}
	if p, err := tree.Join(tree.Root(), "x"); p != "x" || err != nil {
		t.Errorf("Join at the root = %q, %v", p, err)
	}
	c := walk(tree, "c")
	if err := tree.Rename(tree.Root(), "a", c, "z"); err != nil {
		t.Fatal(err)
	}
	wantPath(t, tree, f, "c/z/b/f")
	wantPath(t, tree, tree.Root(), "")
}

func TestSameNameIsSameNode(t *testing.T) {
	tree := New(strings.ToUpper)
	a, b := tree.Child(tree.Root(), "File"), tree.Child(tree.Root(), "fILE")
	if a != b {
		t.Error("folded names gave two nodes")
	}
	wantPath(t, tree, a, "File")
	if err := tree.Rename(tree.Root(), "FILE", tree.Root(), "file"); err != nil {
		t.Fatal(err)
	}
	wantPath(t, tree, a, "file")
	if tree.Forget(a) {
		t.Error("first Forget was the last")
	}
	if !tree.Forget(a) {
		t.Error("second Forget was not the last")
	}
	if tree.Child(tree.Root(), "file") == a {
		t.Error("a forgotten node came back")
	}
}

func TestRemoveAndRenameOverDetach(t *testing.T) {
	tree := New(nil)
	f, g := walk(tree, "d/f"), walk(tree, "d/g")
	d := walk(tree, "d")
	if tree.Remove(d, "nobody") != nil {
		t.Error("Remove made a node")
	}
	if tree.Remove(d, "f") != f {
		t.Error("Remove answered another node")
	}
	wantStale(t, tree, f)
	if tree.Child(d, "f") == f {
		t.Error("a detached node was found by its old name")
	}
	// A source that nobody holds still replaces the target.
	if err := tree.Rename(d, "new", d, "g"); err != nil {
		t.Fatal(err)
	}
	wantStale(t, tree, g)
	if err := tree.Attach(g, d, ".hidden"); err != nil {
		t.Fatal(err)
	}
	wantPath(t, tree, g, "d/.hidden")
	tree.Remove(tree.Root(), "d")
	wantStale(t, tree, g)
	tree.Forget(g)
	wantStale(t, tree, d)
}

func TestExchange(t *testing.T) {
	tree := New(nil)
	x, y := walk(tree, "a/x"), walk(tree, "b/y/z")
	a, b := walk(tree, "a"), walk(tree, "b")
	if err := tree.Exchange(a, "x", b, "y"); err != nil {
		t.Fatal(err)
	}
	wantPath(t, tree, x, "b/y")
	wantPath(t, tree, y, "a/x/z")
	if err := tree.Exchange(a, "none", b, "y"); err != nil {
		t.Fatal(err)
	}
	wantPath(t, tree, x, "a/none")
	if err := tree.Exchange(a, "x", a, "x"); err != nil {
		t.Fatal(err)
	}
	wantPath(t, tree, y, "a/x/z")
}

func TestNoCycles(t *testing.T) {
	tree := New(nil)
	a, c := walk(tree, "a"), walk(tree, "a/b/c")
	for name, err := range map[string]error{
		"rename":       tree.Rename(tree.Root(), "a", c, "a"),
		"rename self":  tree.Rename(tree.Root(), "a", a, "a"),
		"exchange":     tree.Exchange(tree.Root(), "a", c, "x"),
		"exchange rev": tree.Exchange(c, "x", tree.Root(), "a"),
		"attach":       tree.Attach(a, c, "a"),
		"attach root":  tree.Attach(tree.Root(), c, "a"),
	} {
		if !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s into itself: %v", name, err)
		}
	}
	wantPath(t, tree, c, "a/b/c")
}

func TestForgottenTreeIsEmpty(t *testing.T) {
	tree := New(nil)
	deep := walk(tree, "a/b/c/d")
	b := walk(tree, "a/b")
	tree.Forget(b)
	wantPath(t, tree, deep, "a/b/c/d")
	if err := tree.Rename(b, "c", b, "e"); err != nil {
		t.Fatal(err)
	}
	tree.Forget(deep)
	if len(tree.root.children) != 0 {
		t.Errorf("left: %v", tree.root.children)
	}
	tree.Forget(tree.Root())
	wantPath(t, tree, tree.Root(), "")
}

// TestConcurrent moves, removes and looks up at once: no race, no cycle, and
// nothing left when all is forgotten.
func TestConcurrent(t *testing.T) {
	tree := New(nil)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(g)))
			var held []*Node
			for range 2000 {
				dir := tree.Root()
				if len(held) > 0 && rnd.IntN(2) == 0 {
					dir = held[rnd.IntN(len(held))]
				}
				other := tree.Root()
				if len(held) > 0 {
					other = held[rnd.IntN(len(held))]
				}
				name, newName := fmt.Sprint(rnd.IntN(4)), fmt.Sprint(rnd.IntN(4))
				var err error
				switch rnd.IntN(6) {
				case 0:
					err = tree.Rename(dir, name, other, newName)
				case 1:
					err = tree.Exchange(dir, name, other, newName)
				case 2:
					tree.Remove(dir, name)
				case 3:
					_, err = tree.Path(dir)
				default:
					held = append(held, tree.Child(dir, name))
				}
				if err != nil && err != syscall.EINVAL && err != syscall.ESTALE {
					t.Errorf("unexpected: %v", err)
				}
			}
			for _, n := range held {
				tree.Forget(n)
			}
		})
	}
	wg.Wait()
	if len(tree.root.children) != 0 {
		t.Errorf("left: %d children", len(tree.root.children))
	}
}
