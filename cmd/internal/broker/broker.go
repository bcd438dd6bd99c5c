// Package broker is the process that answers the traps of an environment and
// serves its mounts. It may die at any time: the keeper starts another.
package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/archive"
	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/core/ids"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/mount"
	"github.com/lxbridge/lx/portbroker"
)

// Descriptors that the keeper gives to a broker.
const (
	linkFD   = 3
	configFD = 4
)

// Main runs the broker and answers its exit code.
func Main() int {
	// A trap's answer must not wait for a processor that a slow handler holds.
	runtime.GOMAXPROCS(max(4, runtime.GOMAXPROCS(0)))
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "broker")
	if err := run(log); err != nil {
		log.Error("ended", "err", err)
		return 1
	}
	return 0
}

type broker struct {
	cfg    env.Config
	log    *slog.Logger
	link   *env.Link
	mounts *mount.Broker
	ports  *portbroker.Broker // nil: binds are the kernel's alone
	init   guest.Thread
	wg     sync.WaitGroup

	prepared chan struct{} // closed when init has its files in place
}

func run(log *slog.Logger) error {
	var cfg env.Config
	f := os.NewFile(configFD, "config")
	err := json.NewDecoder(f).Decode(&cfg)
	f.Close()
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	if !cfg.Privileged {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot protect the broker's memory: %w", err)
		}
	}
	link, err := env.OpenLink(linkFD)
	if err != nil {
		return err
	}
	b := &broker{cfg: cfg, log: log, link: link, prepared: make(chan struct{})}
	b.mounts = mount.New(mount.Config{Holder: holder{link}, Log: log})
	// Without the ledger programs still run as they would.
	if b.ports, err = portbroker.New(cfg.Name, cfg.Dirs, log); err != nil {
		log.Error("ports", "err", err)
	} else {
		b.ports.SetPolicy(config.MergePorts(cfg.Settings.Ports, nil))
		if _, err := b.loadPolicy(); err != nil {
			log.Error("ports", "err", err)
		}
		defer func() {
			if err := b.ports.Close(); err != nil {
				log.Error("ports", "err", err)
			}
		}()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer b.wg.Wait()
	defer cancel()
	if cfg.Root != nil {
		b.wg.Go(func() {
			tell := func(err error) { log.Warn("host's files", "err", err) }
			if err := env.KeepFiles(ctx, cfg.Dirs.Runtime, cfg.Name, tell); err != nil {
				tell(err)
			}
		})
	}
	for {
		m, err := link.Receive()
		if errors.Is(err, io.EOF) {
			return errors.New("the keeper is gone")
		}
		if err != nil {
			return err
		}
		switch m.Letter {
		case env.BrokerListener:
			err = b.listen(ctx, m)
		case env.BrokerGo:
			err = b.goAhead(m)
		case env.BrokerOrphan:
			err = b.adopt(m)
		case env.LinkConn:
			err = b.serveClient(ctx, m)
		case env.LinkEcho:
			err = link.Send(env.LinkEcho, m.Text)
		case env.LinkStop:
			return b.stop(ctx)
		}
		if err != nil {
			log.Error("keeper's message failed", "letter", string(m.Letter), "err", err)
		}
	}
}

// listen answers what a predecessor left unanswered, then all traps to come.
func (b *broker) listen(ctx context.Context, m env.Message) error {
	if len(m.FDs) != 2 {
		m.Discard()
		return errors.New("cannot take the listener: malformed message")
	}
	inflight, err := seccomp.OpenInflight(m.FDs[1])
	if err != nil {
		m.Discard()
		return err
	}
	n, err := inflight.AnswerOrphans(m.FDs[0])
	if err != nil {
		b.log.Warn("cannot answer a dead broker's calls", "err", err)
	}
	if n > 0 {
		b.log.Warn("calls of guests interrupted", "calls", n)
	}
	handlers := b.mounts.Handlers()
	var record ids.Recorder
	if b.cfg.Root != nil {
		record = archive.RecordOwner
	}
	maps.Copy(handlers, ids.Handlers(record))
	if b.ports != nil {
		maps.Copy(handlers, b.ports.Handlers())
	}
	l, err := seccomp.NewListener(m.FDs[0], handlers, inflight, b.log)
	if err != nil {
		return err
	}
	close(b.prepared)
	b.wg.Go(func() {
		if err := l.Serve(ctx); err != nil && ctx.Err() == nil {
			b.log.Error("listener ended", "err", err)
		}
	})
	return nil
}

func (b *broker) adopt(m env.Message) error {
	key, blob, _ := strings.Cut(m.Text, "\x00")
	if len(m.FDs) != 1 {
		m.Discard()
		return errors.New("cannot adopt a mount: malformed message")
	}
	return b.mounts.Adopt(key, m.FDs[0], []byte(blob))
}

// stop waits until everything written is with the servers.
func (b *broker) stop(ctx context.Context) error {
	if err := b.mounts.Drain(ctx); err != nil {
		return errors.Join(err, b.link.Send(env.BrokerLost, err.Error()))
	}
	return nil
}

// holder keeps descriptors with the keeper.
type holder struct{ link *env.Link }

func (h holder) Hold(key string, fd int, blob []byte) error {
	return h.link.Send(env.BrokerHold, key+"\x00"+string(blob), fd)
}

func (h holder) Drop(key string) error { return h.link.Send(env.BrokerDrop, key) }
