package systemd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lxbridge/lx/core/service"
)

// harmlessSocket are keys of [Socket] that a service does without (systemd.socket(5)).
var harmlessSocket = []string{"Backlog", "BindIPv6Only", "NoDelay", "KeepAlive", "ReusePort", "FreeBind", "RemoveOnStop", "DirectoryMode",
	"DeferAcceptSec", "TriggerLimitIntervalSec", "TriggerLimitBurst", "PollLimitIntervalSec", "PollLimitBurst", "MaxConnections",
	"ReceiveBuffer", "SendBuffer", "PassCredentials", "PassSecurity", "Timestamping"}

// convertSocket makes the sockets of a socket unit's entries, and names its service.
func convertSocket(full string, entries []entry) (sockets []service.Socket, unit string, notes []string, err error) {
	unit = strings.TrimSuffix(full, ".socket") + ".service"
	var name, mode string
	for _, e := range entries {
		if e.section != "Socket" {
			continue
		}
		v, err := specifiers(full, e.value)
		if err == nil {
			switch e.key {
			case "ListenStream", "ListenDatagram":
				if v == "" {
					sockets = nil
					break
				}
				var s service.Socket
				s, err = listen(e.key, v)
				sockets = append(sockets, s)
			case "Accept":
				var each bool
				if each, err = boolean(v); each {
					err = errors.New("a process for each client is not supported")
				}
			case "Service":
				unit = v
			case "FileDescriptorName":
				name = v
			case "SocketMode":
				mode = v
			case "ListenSequentialPacket", "ListenFIFO", "ListenSpecial", "ListenNetlink", "ListenMessageQueue", "ListenUSBFunction":
				err = errors.New("this kind of socket is not supported")
			default:
				if n := fmt.Sprintf("%s= is not supported: left out", e.key); !slices.Contains(harmlessSocket, e.key) && !slices.Contains(notes, n) {
					notes = append(notes, n)
				}
			}
		}
		if err != nil {
			return nil, "", nil, fmt.Errorf("%s:%d: %s=: %w", e.file, e.line, e.key, err)
		}
	}
	if len(sockets) == 0 {
		return nil, "", nil, errors.New("it has no ListenStream= or ListenDatagram=")
	}
	if !strings.HasSuffix(unit, ".service") {
		return nil, "", nil, fmt.Errorf("its Service=%s is no .service", unit)
	}
	for i := range sockets {
		sockets[i].Name, sockets[i].OnDemand = name, true
		if strings.HasPrefix(sockets[i].Listen, "/") {
			sockets[i].Mode = mode
		}
	}
	return sockets, unit, notes, nil
}

// listen reads a [ADDRESS:]PORT or a path.
func listen(key, v string) (s service.Socket, err error) {
	switch {
	case strings.HasPrefix(v, "/") && key == "ListenStream":
		s.Listen = v
	case strings.HasPrefix(v, "/"):
		return s, errors.New("datagrams at a path are not supported")
	case strings.HasPrefix(v, "@"):
		return s, errors.New("abstract sockets are the host's as well: want a path or a port")
	case key == "ListenStream":
		s.Listen = "tcp/" + v
	default:
		s.Listen = "udp/" + v
	}
	_, _, err = s.Address()
	return s, err
}
