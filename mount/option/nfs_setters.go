package option

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

var nfsSetters = withFlags(func(o *NFS) *Common { return &o.Common }, map[string]func(*NFS, value) error{
	"source": func(o *NFS, v value) (err error) {
		o.Source = v.text
		o.Host, o.Path, err = ParseExport(v.text)
		return err
	},
	"addr":      func(o *NFS, v value) error { return v.address(&o.Address) },
	"port":      func(o *NFS, v value) error { return v.port(&o.Port) },
	"mountaddr": func(o *NFS, v value) error { return v.address(&o.MountAddr) },
	"mounthost": func(o *NFS, v value) error { return v.string(&o.MountHost, 255) },
	"mountport": func(o *NFS, v value) error { return v.port(&o.MountPort) },
	"mountproto": func(o *NFS, v value) error {
		switch v.text {
		case "tcp", "tcp6", "udp", "udp6":
			o.MountProto = v.text
			return nil
		}
		return invalid(v.name, "%q is none of tcp, tcp6, udp, udp6", v.text)
	},
	"mountvers": only[NFS]("3"),

	"vers": func(o *NFS, v value) error { return o.setVers(v, v.text) },
	"v3":   func(o *NFS, v value) error { return o.setVers(v, "3") },
	"v4":   func(o *NFS, v value) error { return o.setVers(v, "4") },
	"v4.0": func(o *NFS, v value) error { return o.setVers(v, "4.0") },
	"v4.1": func(o *NFS, v value) error { return o.setVers(v, "4.1") },
	"v4.2": func(o *NFS, v value) error { return o.setVers(v, "4.2") },
	"minorversion": func(o *NFS, v value) error {
		n, err := v.number(0, 2)
		o.minor = int(n)
		return err
	},

	"proto": func(o *NFS, v value) error {
		switch v.text {
		case "tcp", "tcp6":
			o.IPv6 = v.text == "tcp6"
			return nil
		case "udp", "udp6", "rdma", "rdma6":
			return unsupported(v.name, "the transport is TCP: tcp or tcp6")
		}
		return invalid(v.name, "%q is none of tcp, tcp6", v.text)
	},
	"nconnect": func(o *NFS, v value) error {
		n, err := v.number(1, 16)
		o.NConnect = int(n)
		return err
	},
	"max_connect": only[NFS]("1"),
	"resvport":    on(func(o *NFS) { o.Ports = PortsReserved }),
	"noresvport":  on(func(o *NFS) { o.Ports = PortsHigh }),
	"xprtsec": func(o *NFS, v value) error {
		switch v.text {
		case "none", "tls", "mtls":
			o.Xprtsec = v.text
			return nil
		}
		return invalid(v.name, "%q is none of none, tls, mtls", v.text)
	},
	"cacert":          func(o *NFS, v value) error { return v.string(&o.CACert, 4095) },
	"cert":            func(o *NFS, v value) error { return v.string(&o.Cert, 4095) },
	"key":             func(o *NFS, v value) error { return v.string(&o.Key, 4095) },
	"soft":            on(func(o *NFS) { o.Recovery = Soft }),
	"softerr":         on(func(o *NFS) { o.Recovery = SoftErr }),
	"hard":            on(func(o *NFS) { o.Recovery = Hard }),
	"fatal_neterrors": oneOf[NFS]("default", "none"),
	"timeo": func(o *NFS, v value) error {
		n, err := v.number(1, 1<<31-1)
		o.Timeo = time.Duration(n) * time.Second / 10
		return err
	},
	"retrans": func(o *NFS, v value) error {
		n, err := v.number(0, 1<<31-1)
		o.Retrans = int(n)
		return err
	},

	"sec": setFlavours,
	"idmap": func(o *NFS, v value) error {
		switch m := IDMap(v.text); m {
		case IDMapHost, IDMapGuest:
			o.IDMap, o.FixedID = m, 0
			return nil
		}
		id, err := strconv.ParseUint(v.text, 10, 32)
		if err != nil || id == 1<<32-1 {
			return invalid(v.name, "%q is none of host, guest, or a user id", v.text)
		}
		o.IDMap, o.FixedID = IDMapFixed, uint32(id)
		return nil
	},
	"lock":   on(func(o *NFS) { o.LocalLocks = false }),
	"nolock": on(func(o *NFS) { o.LocalLocks = true }),
	"local_lock": func(o *NFS, v value) error {
		switch v.text {
		case "none", "all":
			o.LocalLocks = v.text == "all"
			return nil
		case "flock", "posix":
			return unsupported(v.name, "locks of flock(2) and fcntl(2) are kept in the same place: none or all")
		}
		return invalid(v.name, "%q is none of none, all", v.text)
	},
	"acl":   on(func(o *NFS) { o.NoACL = false }),
	"noacl": on(func(o *NFS) { o.NoACL = true }),
	"namlen": func(o *NFS, v value) error {
		n, err := v.number(0, 1<<16)
		o.NameMax = int(n)
		return err
	},
	"rdirplus": func(o *NFS, v value) error {
		switch v.text {
		case "", "none":
			o.NoRdirPlus = v.text == "none"
			return nil
		case "force":
			return unsupported(v.name, "force: the kernel asks for attributes when it wants them")
		}
		return invalid(v.name, "%q is none of none, force", v.text)
	},
	"nordirplus": on(func(o *NFS) { o.NoRdirPlus = true }),

	"ac":       on(func(o *NFS) { o.NoAC = false }),
	"noac":     on(func(o *NFS) { o.NoAC = true }),
	"acregmin": func(o *NFS, v value) error { return v.seconds(&o.ACRegMin, 0, maxACSeconds) },
	"acregmax": func(o *NFS, v value) error { return v.seconds(&o.ACRegMax, 0, maxACSeconds) },
	"acdirmin": func(o *NFS, v value) error { return v.seconds(&o.ACDirMin, 0, maxACSeconds) },
	"acdirmax": func(o *NFS, v value) error { return v.seconds(&o.ACDirMax, 0, maxACSeconds) },
	"actimeo": func(o *NFS, v value) error {
		var d time.Duration
		err := v.seconds(&d, 0, maxACSeconds)
		o.ACRegMin, o.ACRegMax, o.ACDirMin, o.ACDirMax = d, d, d, d
		return err
	},
	"lookupcache": func(o *NFS, v value) error {
		switch v.text {
		case "all":
			o.Lookup = LookupAll
		case "pos", "positive":
			o.Lookup = LookupPositive
		case "none":
			o.Lookup = LookupNone
		default:
			return invalid(v.name, "%q is none of all, pos, positive, none", v.text)
		}
		return nil
	},
	"cto":   on(func(o *NFS) { o.NoCTO = false }),
	"nocto": on(func(o *NFS) { o.NoCTO = true }),
	"write": only[NFS]("lazy"),
	"rsize": func(o *NFS, v value) error { return v.bytes(&o.RSize, 1, 1<<32-1) },
	"wsize": func(o *NFS, v value) error { return v.bytes(&o.WSize, 1, 1<<32-1) },
})

// maxACSeconds is the longest time for attributes.
const maxACSeconds = 1<<31 - 1

func (o *NFS) setVers(v value, vers string) error {
	switch vers {
	case "3", "4", "4.0", "4.1", "4.2":
		o.Vers = vers
		return nil
	case "2":
		return unsupported(v.name, nfsTable().find("v2").Why)
	}
	return invalid(v.name, "%q is none of 3, 4, 4.0, 4.1, 4.2", vers)
}

// setFlavours takes sec=, each flavour once.
func setFlavours(o *NFS, v value) error {
	var list []string
	for f := range strings.SplitSeq(v.text, ":") {
		switch f {
		case "":
			continue
		case "null":
			f = "none"
		case "none", "sys", "krb5", "krb5i", "krb5p":
		case "lkey", "lkeyi", "lkeyp", "spkm3", "spkm3i", "spkm3p":
			return unsupported(v.name, f+" is spoken by no server; none, sys, krb5, krb5i and krb5p are supported")
		default:
			return invalid(v.name, "%q is none of none, sys, krb5, krb5i, krb5p", f)
		}
		if !slices.Contains(list, f) {
			list = append(list, f)
		}
	}
	if list == nil {
		return invalid(v.name, "no flavour between the colons")
	}
	o.Sec = strings.Join(list, ":")
	return nil
}

// oneOf takes the values that change nothing.
func oneOf[T any](texts ...string) func(*T, value) error {
	return func(_ *T, v value) error {
		if slices.Contains(texts, v.text) {
			return nil
		}
		return unsupported(v.name, "only "+strings.Join(texts, ", ")+" are possible: "+v.row.Why)
	}
}
