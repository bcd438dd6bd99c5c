package option

import (
	"strings"
	"testing"
)

func FuzzSplit(f *testing.F) {
	f.Add("user=me,pass=a,,b,uid=0")
	f.Add("sep=;user=me;pass=a,b")
	f.Add(",,=,")
	f.Fuzz(func(t *testing.T, data string) {
		params, err := Split(data)
		if err != nil {
			return
		}
		// Written back with commas doubled it is the same again.
		var parts []string
		for _, p := range params {
			s := p.Name
			if p.Has {
				s += "=" + p.Value
			}
			if strings.HasPrefix(s, ",") {
				return // cannot be written: the comma before it would count as doubled
			}
			parts = append(parts, strings.ReplaceAll(s, ",", ",,"))
		}
		text := strings.Join(parts, ",")
		if len(text) > MaxData || strings.HasPrefix(text, "sep=") {
			return
		}
		again, err := Split(text)
		if err != nil || len(again) != len(params) {
			t.Fatalf("%q: %v, %v", data, params, again)
		}
		for i := range again {
			if again[i] != params[i] {
				t.Fatalf("%q: %v, %v", data, params[i], again[i])
			}
		}
	})
}

func FuzzParseCIFS(f *testing.F) {
	f.Add("//nas/photos", "user=me,pass=x,vers=3.0,uid=0x7,port=445")
	f.Add(`\\nas\photos`, "guest,ro,x-y")
	f.Fuzz(func(t *testing.T, source, data string) {
		params, err := Split(data)
		if err != nil {
			return
		}
		for _, fsType := range []string{"cifs", "smb3"} {
			o, err := parseCIFS(fsType, source, params)
			if err != nil {
				continue
			}
			if o.Server == "" || o.Share == "" || o.FileMode > 0o7777 {
				t.Fatalf("%+v", o)
			}
		}
	})
}

func FuzzParseUNC(f *testing.F) {
	f.Add("//nas/photos/2024")
	f.Add(`\\[::1]\s\d`)
	f.Add("//fe80--1s2.ipv6-literal.net/s")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUNC(s)
		if err != nil {
			return
		}
		if u.Server == "" || u.Share == "" || strings.ContainsAny(u.Server+u.Share, `/\`) || strings.Contains("/"+u.Prefix+"/", "/../") {
			t.Fatalf("%q: %+v", s, u)
		}
		again, err := ParseUNC(u.String())
		if err != nil || again != u {
			t.Fatalf("%q: %+v, then %+v %v", s, u, again, err)
		}
	})
}

func FuzzParseCredentials(f *testing.F) {
	f.Add([]byte("username=me\r\npassword= p\ndomain=D"))
	f.Add([]byte("\ufeff# x\n\npass ="))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := ParseCredentials(text)
		if err != nil {
			return
		}
		if strings.ContainsAny(l.User+string(l.Password)+l.Domain, "\n\x00") {
			t.Fatalf("%q", text)
		}
	})
}

func FuzzParseNFS(f *testing.F) {
	f.Add("nas:/srv", "vers=4.2,addr=192.0.2.1,clientaddr=192.0.2.9,sec=krb5p:sys")
	f.Add("[::1]:/", "nolock,addr=::1,vers=3,proto=tcp6,mountport=20048,timeo=7")
	f.Add("nas:/x", "\x06\x00")
	f.Fuzz(func(t *testing.T, source, data string) {
		params, err := SplitPlain(data)
		if err != nil {
			return
		}
		for _, fsType := range []string{"nfs", "nfs4"} {
			o := NewNFS(fsType)
			if err := Parse(o, source, params); err != nil {
				continue
			}
			if o.Host == "" || o.Path[0] != '/' || o.NConnect < 1 || o.Timeo <= 0 || o.Vers == "3" && fsType == "nfs4" {
				t.Fatalf("%+v", o)
			}
			if !o.Same(o.Clone()) {
				t.Fatalf("%+v is not the same as its copy", o)
			}
		}
	})
}

func FuzzParseExport(f *testing.F) {
	f.Add("nas:/srv/x")
	f.Add("[fe80::1%eth0]:/")
	f.Fuzz(func(t *testing.T, s string) {
		host, path, err := ParseExport(s)
		if err != nil {
			return
		}
		if host == "" || path == "" || path[0] != '/' || strings.ContainsAny(host, "/,") || strings.Contains(path+"/", "/../") {
			t.Fatalf("%q: %q %q", s, host, path)
		}
	})
}
