package compound

// Channel is the attributes of one direction of a session (RFC 8881, section 18.36).
type Channel struct {
	MaxRequest, MaxResponse, MaxCached uint32 // bytes
	MaxOps, MaxRequests                uint32
}

func (c Channel) encode(q *Request) {
	q.Enc.Uint32(0) // no padding
	q.Enc.Uint32(c.MaxRequest)
	q.Enc.Uint32(c.MaxResponse)
	q.Enc.Uint32(c.MaxCached)
	q.Enc.Uint32(c.MaxOps)
	q.Enc.Uint32(c.MaxRequests)
	q.Enc.Uint32(0) // no RDMA
}

func (r *Reply) channel() (c Channel) {
	r.Uint32()
	c.MaxRequest, c.MaxResponse, c.MaxCached = r.Uint32(), r.Uint32(), r.Uint32()
	c.MaxOps, c.MaxRequests = r.Uint32(), r.Uint32()
	for range r.Len(1, 4) {
		r.Uint32()
	}
	return c
}

// ExchangeID names the client to the server; v is of this instance of it.
func (q *Request) ExchangeID(v Verifier, owner string) {
	e := q.Op(OpExchangeID)
	e.Fixed(v[:])
	e.String(owner)
	e.Uint32(exchgSuppMovedRefer | exchgBindPrinc)
	e.Uint32(0) // SP4_NONE
	e.Uint32(0) // no implementation id
}

// Exchanged is the result of EXCHANGE_ID.
type Exchanged struct {
	Client    uint64
	Seq       uint32
	Confirmed bool // the server knew this instance
	Server    string
}

// ExchangeID is the result of EXCHANGE_ID.
func (r *Reply) ExchangeID() (x Exchanged, err error) {
	if err := r.Next(OpExchangeID); err != nil {
		return x, err
	}
	x.Client, x.Seq = r.Uint64(), r.Uint32()
	x.Confirmed = r.Uint32()&exchgConfirmed != 0
	if how := r.Uint32(); how != 0 {
		r.Fail("state protection %d, none was asked", how)
	}
	r.Uint64() // so_minor_id
	x.Server = r.String(maxOpaque)
	r.Opaque(maxOpaque) // scope
	for range r.Len(1, 8) {
		r.Opaque(maxOpaque)
		r.Opaque(maxOpaque)
		r.Uint64()
		r.Uint32()
	}
	return x, r.Err()
}

// CreateSession asks for a session. Callbacks come without credentials: the
// connection is the proof.
func (q *Request) CreateSession(client uint64, seq, flags uint32, fore, back Channel) {
	e := q.Op(OpCreateSession)
	e.Uint64(client)
	e.Uint32(seq)
	e.Uint32(flags)
	fore.encode(q)
	back.encode(q)
	e.Uint32(CallbackProgram)
	e.Uint32(1)
	e.Uint32(0) // AUTH_NONE
}

// Created is the result of CREATE_SESSION.
type Created struct {
	ID         SessionID
	Flags      uint32
	Fore, Back Channel
}

// CreateSession is the result of CREATE_SESSION.
func (r *Reply) CreateSession() (c Created, err error) {
	if err := r.Next(OpCreateSession); err != nil {
		return c, err
	}
	copy(c.ID[:], r.Fixed(16))
	r.Uint32()
	c.Flags = r.Uint32()
	c.Fore, c.Back = r.channel(), r.channel()
	return c, r.Err()
}

// Sequence is SEQUENCE's arguments, and CB_SEQUENCE's.
type Sequence struct {
	ID                 SessionID
	Seq, Slot, Highest uint32
	Cache              bool
}

// Sequence begins every compound within a session.
func (q *Request) Sequence(s Sequence) {
	e := q.Op(OpSequence)
	e.Fixed(s.ID[:])
	e.Uint32(s.Seq)
	e.Uint32(s.Slot)
	e.Uint32(s.Highest)
	q.cache = e.Hold()
}

// Sequenced is SEQUENCE's result.
type Sequenced struct {
	Sequence
	Target, Flags uint32
}

// Sequence is the result of SEQUENCE.
func (r *Reply) Sequence() (s Sequenced, err error) {
	if err := r.Next(OpSequence); err != nil {
		return s, err
	}
	copy(s.ID[:], r.Fixed(16))
	s.Seq, s.Slot, s.Highest, s.Target, s.Flags = r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()
	return s, r.Err()
}

// BindConn makes this connection one of the session's, in both directions.
func (q *Request) BindConn(id SessionID) {
	e := q.Op(OpBindConnToSession)
	e.Fixed(id[:])
	e.Uint32(bindForeOrBoth)
	e.Bool(false)
}

// BindConn is the result of BIND_CONN_TO_SESSION; back where the server may
// call on the connection.
func (r *Reply) BindConn() (back bool, err error) {
	if err := r.Next(OpBindConnToSession); err != nil {
		return false, err
	}
	r.Fixed(16)
	back = r.Uint32()&2 != 0
	r.Bool()
	return back, r.Err()
}

// DestroySession ends a session.
func (q *Request) DestroySession(id SessionID) { q.Op(OpDestroySession).Fixed(id[:]) }

// DestroyClientID takes leave of the server.
func (q *Request) DestroyClientID(id uint64) { q.Op(OpDestroyClientID).Uint64(id) }

// ReclaimComplete ends the grace that the server granted.
func (q *Request) ReclaimComplete() { q.Op(OpReclaimComplete).Bool(false) }

// SetClientID names a 4.0 client; callbacks go to address as program.
func (q *Request) SetClientID(v Verifier, owner, netid, address string) {
	e := q.Op(OpSetClientID)
	e.Fixed(v[:])
	e.String(owner)
	e.Uint32(CallbackProgram)
	e.String(netid)
	e.String(address)
	e.Uint32(1)
}

// SetClientID is the client id and what confirms it.
func (r *Reply) SetClientID() (id uint64, confirm Verifier, err error) {
	if err := r.Next(OpSetClientID); err != nil {
		return 0, confirm, err
	}
	id, confirm = r.Uint64(), r.verifier()
	return id, confirm, r.Err()
}

// SetClientIDConfirm confirms what SETCLIENTID answered.
func (q *Request) SetClientIDConfirm(id uint64, confirm Verifier) {
	e := q.Op(OpSetClientIDConfirm)
	e.Uint64(id)
	e.Fixed(confirm[:])
}

// Renew keeps a 4.0 client's lease.
func (q *Request) Renew(id uint64) { q.Op(OpRenew).Uint64(id) }
