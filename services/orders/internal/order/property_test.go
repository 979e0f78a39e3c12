package order

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"roundtrip/internal/problem"
)

// world is one random history: callers and settlers at work on a few orders,
// each a goroutine that stops wherever a commit, a read or a message could fail,
// until the scheduler says how it goes on. One of them runs at a time, so a
// history is what was drawn and nothing else.
type world struct {
	*rapid.T
	now      time.Time
	store    *memory
	wire     *wire
	gate     *turnstile
	protocol *Protocol
	// patient never gives up, eager always does.
	patient, eager *Settler

	tasks []*task    // that are stopped somewhere
	yield chan *task // one has stopped or ended
	late  []Request  // still under way, perhaps for a second time
	// alarms are reasons; refusals is how many answers were made up that may alarm.
	alarms   []string
	refusals int
	// rejected is what the place of each order was told; there is one answer.
	rejected map[string]*problem.Problem
	stocked  map[shelf]int64
	// apart is that a backup was put back, and the two sides are not repaired yet:
	// no more can be asked then than that nothing breaks.
	apart bool
}

// task is a caller or settler at work.
type task struct {
	what   string
	where  point
	reply  Reservation // at gotReply
	resume chan move
	cancel context.CancelFunc
	ended  bool
	panic  any
	// check holds what its caller was told against what is recorded; nil before
	// it was told anything.
	check func()
}

// point is where a task stops, and move is how it goes on.
type (
	point string
	move  string
)

const (
	beforeCommit point = "before a commit"
	afterCommit  point = "after a commit"
	beforeRead   point = "before a read"
	beforeSend   point = "before a request is sent"
	gotReply     point = "before a reply arrives"

	proceed   move = "goes on"
	fail      move = "fails" // a commit or a read; after a commit its result is unknown
	lose      move = "is lost"
	delay     move = "is lost, and arrives later"
	duplicate move = "arrives, and again later"
	refused   move = "is refused"
	unclear   move = "is answered with garbage"
	misdirect move = "gets the answer to something else"
	crash     move = "crashes"
)

// faults are what can go wrong at each point.
var faults = map[point][]move{
	beforeCommit: {fail, crash},
	afterCommit:  {fail, crash},
	beforeRead:   {fail, crash},
	beforeSend:   {lose, delay, duplicate, refused, unclear, crash},
	gotReply:     {lose, lose, misdirect, crash},
}

type taskKey struct{}

// Any history of operations, lost and late messages, lost commits, crashes,
// settlers and time keeps invariants 1 to 6 at every step, and 5 and 7 once
// faults have stopped and the settler has been round.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	for i := range 8 { // the hundred histories of one check are few for all that can meet
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, anyHistory)
		})
	}
}

func anyHistory(t *rapid.T) {
	w := newWorld(t)
	defer w.abandon()
	w.play("steps", 250, append(w.actions(), w.repair))
	w.calmDown()
	// Nothing was apart, so a repair had nothing to adopt.
	if len(w.store.adopted) > 0 {
		w.Fatalf("of a healthy pair was adopted %+v", w.store.adopted)
	}
}

func (w *world) actions() []func() {
	return []func(){
		w.call, w.call, w.call, w.quietly, w.quietly, w.step, w.step, w.step, w.step, w.step,
		w.fault, w.fault, w.hangUp, w.arrive, w.pass, w.settle, w.settle, w.mark,
	}
}

// play does up to so many things, one after the other.
func (w *world) play(what string, most int, actions []func()) {
	for range rapid.IntRange(1, most).Draw(w.T, what) {
		rapid.SampledFrom(actions).Draw(w.T, "action")()
		w.invariants()
	}
}

func newWorld(t *rapid.T) *world {
	w := &world{T: t, now: start, yield: make(chan *task), rejected: map[string]*problem.Problem{}, gate: new(turnstile)}
	clock := func() time.Time { return w.now }
	w.store = newMemory(clock)
	w.wire = &wire{warehouse: newWarehouse(clock, map[string]int64{"a": 8, "b": 3})}
	w.stocked = maps.Clone(w.wire.onHand)

	w.store.before.set(func(ctx context.Context, _ Command) error { return w.storeFault(ctx, beforeCommit) })
	w.store.after.set(func(ctx context.Context, _ Command) error { return w.storeFault(ctx, afterCommit) })
	w.store.read.set(func(ctx context.Context) error { return w.storeFault(ctx, beforeRead) })
	w.wire.carryPut.set(w.carryPut)
	w.wire.carryGet.set(w.carryGet)
	w.protocol = NewProtocol(w.store, w.wire, w.gate, func(reason string) { w.alarms = append(w.alarms, reason) })
	w.patient = NewSettler(w.protocol, time.Second, 1<<62, quiet())
	w.eager = NewSettler(w.protocol, time.Second, -1<<62, quiet())
	return w
}

// spawn lets a task begin; it runs until it stops somewhere.
func (w *world) spawn(what string, run func(ctx context.Context, t *task)) *task {
	t := &task{what: what, resume: make(chan move)}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), taskKey{}, t))
	t.cancel = cancel
	go func() {
		defer func() {
			t.panic, t.ended = recover(), true
			w.yield <- t
		}()
		run(ctx, t)
	}()
	w.await()
	return t
}

// await waits until the one task that runs stops or ends.
func (w *world) await() {
	t := <-w.yield
	if !t.ended {
		w.tasks = append(w.tasks, t)
		return
	}
	t.cancel()
	if t.panic != nil {
		w.Fatalf("%s: panic: %v", t.what, t.panic)
	}
	if t.check != nil && !w.apart {
		t.check()
	}
}

// stop is called by a task; the scheduler says how it goes on.
func (w *world) stop(ctx context.Context, where point) move {
	t := ctx.Value(taskKey{}).(*task)
	t.where = where
	w.yield <- t
	m := <-t.resume
	if m == crash {
		runtime.Goexit()
	}
	return m
}

// resume lets the i-th task go on until it stops again.
func (w *world) resume(i int, m move) {
	t := w.tasks[i]
	w.tasks = slices.Delete(w.tasks, i, i+1)
	t.resume <- m
	w.await()
}

// abandon ends every task, whatever has become of the test.
func (w *world) abandon() {
	for len(w.tasks) > 0 {
		t := w.tasks[0]
		w.tasks = w.tasks[1:]
		t.resume <- crash
		<-w.yield
		t.cancel()
	}
}

func (w *world) storeFault(ctx context.Context, at point) error {
	if w.stop(ctx, at) == fail {
		return problem.New(problem.Unavailable, "The database can't be used.")
	}
	return nil
}

// carryPut sends nothing that is not written down word for word.
func (w *world) carryPut(ctx context.Context, r Request, arrive func() (Reservation, error)) (Reservation, error) {
	list := w.store.intents[r.ID]
	if r.Seq < 1 || r.Seq > int64(len(list)) {
		return Reservation{}, w.broken("%+v is sent and not written down", r)
	}
	written := request(Order{ID: r.ID, HoldSeconds: w.store.orders[r.ID].HoldSeconds, Intent: &list[r.Seq-1].Intent})
	if !reflect.DeepEqual(r, written) {
		return Reservation{}, w.broken("%+v is sent, written down is %+v", r, written)
	}
	t := ctx.Value(taskKey{}).(*task)
	switch w.stop(ctx, beforeSend) {
	case delay:
		w.late = append(w.late, r)
		return Reservation{}, lost()
	case lose:
		return Reservation{}, lost()
	case refused:
		w.refusals++
		return Reservation{}, problem.New(problem.Forbidden, "")
	case unclear:
		w.refusals++
		return Reservation{}, problem.Wrap(ErrUnexplained, problem.Unavailable, "")
	case duplicate:
		w.late = append(w.late, r)
	}
	answer, err := arrive()
	t.reply = answer
	switch w.stop(ctx, gotReply) {
	case lose:
		return Reservation{}, lost()
	case misdirect:
		w.refusals++
		return misdirected(r, answer, err)
	}
	return answer, err
}

// misdirected is an answer that was made for another order or seq.
func misdirected(r Request, answer Reservation, err error) (Reservation, error) {
	if err == nil {
		answer.Seq += 1 - 2*(r.Seq%2)
		return answer, nil
	}
	p := *problem.From(err)
	p.Current = &problem.Current{ID: r.ID + "x", Seq: r.Seq, State: string(ReservationHeld)}
	return Reservation{}, &p
}

func (w *world) carryGet(ctx context.Context, _ string, arrive func() (Reservation, error)) (Reservation, error) {
	if w.stop(ctx, beforeSend) != proceed {
		return Reservation{}, lost()
	}
	r, err := arrive()
	switch w.stop(ctx, gotReply) {
	case lose:
		return Reservation{}, lost()
	case misdirect:
		r.ID += "x"
	}
	return r, err
}

// broken reports what a task may not do; the next check fails the test.
func (w *world) broken(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	w.store.broken = append(w.store.broken, err)
	return err
}

// step lets one task go on, and fault with something gone wrong.
func (w *world) step() {
	if len(w.tasks) > 0 {
		w.resume(rapid.IntRange(0, len(w.tasks)-1).Draw(w.T, "task"), proceed)
	}
}

func (w *world) fault() {
	if len(w.tasks) > 0 {
		i := rapid.IntRange(0, len(w.tasks)-1).Draw(w.T, "task")
		w.resume(i, rapid.SampledFrom(faults[w.tasks[i].where]).Draw(w.T, "fault"))
	}
}

// quietly lets one task run to its end, undisturbed.
func (w *world) quietly() {
	if len(w.tasks) > 0 {
		w.finish(w.tasks[rapid.IntRange(0, len(w.tasks)-1).Draw(w.T, "task")])
	}
}

func (w *world) finish(t *task) {
	for !t.ended {
		w.resume(slices.Index(w.tasks, t), proceed)
		w.invariants()
	}
}

func (w *world) hangUp() {
	if len(w.tasks) > 0 {
		w.tasks[rapid.IntRange(0, len(w.tasks)-1).Draw(w.T, "task")].cancel()
	}
}

// arrive delivers a request that was lost on the way; nobody waits for the answer.
func (w *world) arrive() {
	if len(w.late) > 0 {
		i := rapid.IntRange(0, len(w.late)-1).Draw(w.T, "late")
		r := w.late[i]
		if rapid.Bool().Draw(w.T, "for the last time") {
			w.late = slices.Delete(w.late, i, i+1)
		}
		_, _ = w.wire.warehouse.put(r)
	}
}

func (w *world) pass() {
	w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 500, 1000, 3000}).Draw(w.T, "ms")) * time.Millisecond)
}

// settle is a settler's turn at an order that it took a moment ago.
func (w *world) settle() {
	s, o := w.patient, w.some(func(o Order) bool { return o.Intent != nil })
	if o == nil {
		return
	}
	if rapid.IntRange(0, 3).Draw(w.T, "too old") == 0 {
		s = w.eager
	}
	w.spawn("settler", func(ctx context.Context, _ *task) { s.resend(ctx, *o) })
}

// mark is a settler's look at a placed order, whether or not its hold has run out.
func (w *world) mark() {
	if o := w.some(func(o Order) bool { return o.State == Placed && o.Intent == nil }); o != nil {
		w.spawn("settler", func(ctx context.Context, _ *task) { w.patient.markExpired(ctx, *o) })
	}
}

// some draws one of the orders that a settler would take.
func (w *world) some(due func(Order) bool) *Order {
	var list []Order
	for _, id := range slices.Sorted(maps.Keys(w.store.orders)) {
		if o, _ := w.store.find(id); due(o) {
			list = append(list, o)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return &list[rapid.IntRange(0, len(list)-1).Draw(w.T, "order")]
}

// call is a caller with any operation.
func (w *world) call() {
	id := rapid.SampledFrom([]string{"o1", "o2", "o3"}).Draw(w.T, "id")
	match := w.precondition(id)
	w.gate.away.Store(rapid.IntRange(0, 9).Draw(w.T, "away") == 9)
	switch rapid.SampledFrom([]Operation{
		PlaceOperation, PlaceOperation, AmendOperation, AmendOperation, ConfirmOperation, CancelOperation,
	}).Draw(w.T, "operation") {
	case PlaceOperation:
		c := Place{ID: id, Customer: "Ada", Currency: "GBP", HoldSeconds: 4, Lines: lines(0)}
		switch rapid.IntRange(0, 9).Draw(w.T, "content") {
		case 0:
			c.Customer = "Bob"
		case 1:
			c.Lines = lines(3) // more than there is
		}
		w.spawn("place", func(ctx context.Context, t *task) {
			a, err := w.protocol.Place(ctx, c)
			t.check = func() { w.placed(c, a, err) }
		})
	case AmendOperation:
		c := Amend{ID: id, Lines: lines(rapid.IntRange(0, 3).Draw(w.T, "lines")), IfMatch: match}
		w.spawn("amend", func(ctx context.Context, t *task) {
			a, err := w.protocol.Amend(ctx, c)
			t.check = func() { w.changed(id, AmendOperation, c.Lines, match, a, err) }
		})
	case ConfirmOperation:
		w.spawn("confirm", func(ctx context.Context, t *task) {
			a, err := w.protocol.Confirm(ctx, Confirm{id, match})
			t.check = func() { w.changed(id, ConfirmOperation, nil, match, a, err) }
		})
	case CancelOperation:
		w.spawn("cancel", func(ctx context.Context, t *task) {
			a, err := w.protocol.Cancel(ctx, Cancel{id, match})
			t.check = func() { w.changed(id, CancelOperation, nil, match, a, err) }
		})
	}
}

// lines are contents that orders may have; the last one is more than there is.
func lines(i int) []Line {
	line := func(sku string, quantity int64) Line { return Line{sku, MainLocation, quantity, 7} }
	return [][]Line{
		{line("a", 2), line("b", 1)},
		{line("a", 1), line("a", 3)},
		{line("a", 6)},
		{line("a", 1), line("b", 4)},
	}[i]
}

func (w *world) precondition(id string) Precondition {
	switch o := w.store.orders[id]; rapid.IntRange(0, 5).Draw(w.T, "if-match") {
	case 0:
		return Precondition{Given: true, Versions: []int64{o.Version}}
	case 1:
		return Precondition{Given: true, Versions: []int64{o.Version - 1}}
	case 2:
		return Precondition{Given: true, Any: true}
	}
	return Precondition{}
}

// placed holds what somebody who placed an order was told against what is recorded.
func (w *world) placed(c Place, a Response, err error) {
	if err == nil {
		w.told(c.ID, a)
		if a.Order.Fingerprint != fingerprintOf([]any{c.Customer, c.Currency, c.HoldSeconds}, c.Lines) {
			w.Fatalf("%+v is answered with the other content %+v", c, a)
		}
		if a.Settled == (a.Order.State == Pending) || a.Settled && a.Order.State == Rejected {
			w.Fatalf("%+v is answered %+v", c, a)
		}
		return
	}
	p := problem.From(err)
	switch p.Code {
	case problem.InsufficientStock, problem.GivenUp:
		o := w.store.orders[c.ID]
		if o.State != Rejected || o.Last.Problem.Code != p.Code || !slices.Equal(o.Last.Problem.Shortages, p.Shortages) {
			w.Fatalf("%+v is told %v, and the order is %+v", c, err, o)
		}
		if first := w.rejected[c.ID]; first != nil && !reflect.DeepEqual(stored(p), first) {
			w.Fatalf("%+v was told %v, and is now told %v", c, first, err)
		}
		w.rejected[c.ID] = stored(p)
	case problem.KeyReused:
		if w.store.orders[c.ID].Customer == c.Customer && slices.Equal(w.store.history[c.ID][0].Lines, c.Lines) {
			w.Fatalf("%+v is told %v", c, err)
		}
	default:
		w.mayFail(err)
	}
}

// changed does so for every other operation.
func (w *world) changed(id string, op Operation, lines []Line, match Precondition, a Response, err error) {
	ended := func(outcome OutcomeKind, code problem.Code) bool {
		if adopted := w.store.adopted[id].Last; adopted != nil && adopted.Operation == op && adopted.Outcome == outcome && code == "" {
			return true
		}
		return slices.ContainsFunc(w.store.intents[id], func(in recorded) bool {
			return in.Operation == op && slices.Equal(in.Lines, lines) && in.end != nil && in.end.Outcome == outcome &&
				(in.end.Problem == nil && code == "" || in.end.Problem != nil && in.end.Problem.Code == code)
		})
	}
	was := func(is func(Order) bool) bool { return slices.ContainsFunc(w.store.history[id], is) }
	switch code := problem.CodeOf(err); code {
	case "":
		w.told(id, a)
		already := match.Given && op == AmendOperation && was(func(o Order) bool { return slices.Equal(o.Lines, lines) })
		if a.Settled && !ended(OutcomeDone, "") && !already {
			w.Fatalf("the %s of %s is said to be done: %+v", op, id, a)
		}
		if !a.Settled && a.Order.Intent == nil {
			w.Fatalf("the %s of %s is said to be pending: %+v", op, id, a)
		}
	case problem.InsufficientStock:
		if !ended(OutcomeRejected, code) {
			w.Fatalf("the %s of %s is told %v, which nobody said", op, id, err)
		}
	case problem.ReservationExpired:
		if !ended(OutcomeRejected, code) && !was(func(o Order) bool { return o.State == Expired }) {
			w.Fatalf("the %s of %s is told %v, which nobody said", op, id, err)
		}
	case problem.WrongState:
		if !was(func(o Order) bool { return o.State != Pending && o.State != Placed }) {
			w.Fatalf("the %s of %s is told %v", op, id, err)
		}
	case problem.PreconditionFailed:
		if !match.Given || match.Any {
			w.Fatalf("the %s of %s is told %v", op, id, err)
		}
	case problem.NotFound:
	case problem.OperationPending:
		if op == CancelOperation {
			w.Fatalf("a cancel has to wait: %v", err)
		}
	default:
		w.mayFail(err)
	}
}

// told checks that an answer is a version of the order (invariant 3).
func (w *world) told(id string, a Response) {
	if v := a.Order.Version; v < 1 || v > int64(len(w.store.history[id])) || !reflect.DeepEqual(a.Order, w.store.history[id][v-1]) {
		w.Fatalf("the answer %+v is no version of %s", a, id)
	}
}

func (w *world) mayFail(err error) {
	if !errors.Is(err, context.Canceled) && problem.CodeOf(err) != problem.Unavailable {
		w.Fatalf("a caller is told %v", err)
	}
}

// invariants is checked after every step.
func (w *world) invariants() {
	if err := errors.Join(w.store.broken...); err != nil {
		w.Fatal(err)
	}
	for at, n := range w.wire.onHand {
		if held := n - w.wire.available(at, nil); held < 0 || held > n {
			w.Fatalf("%v has %d on hand and %d held", at, n, held)
		}
	}
	if w.apart {
		return
	}
	for _, reason := range w.alarms {
		if reason != "unexplained" && reason != string(problem.Forbidden) {
			w.Fatalf("there is an alarm: %s", reason)
		}
	}
	if len(w.alarms) > w.refusals {
		w.Fatalf("there are %d alarms for %d refusals", len(w.alarms), w.refusals)
	}
	for id, o := range w.store.orders {
		w.explain(o)
		if o.Intent == nil {
			if err := agree(o, w.wire.bookings[id], w.now); err != nil {
				w.Fatal(err)
			}
		}
	}
	for id, b := range w.wire.bookings {
		if o, ok := w.store.orders[id]; !ok || b.seq > o.Seq {
			w.Fatalf("inventory is at seq %d of %s, orders is at %+v", b.seq, id, o)
		}
	}
}

// explain is the model: an order is what the ends of its intents make of it, and
// an end is what inventory decided under that seq, whoever learnt of it.
func (w *world) explain(o Order) {
	decided := map[int64]decision{}
	for _, d := range w.wire.decided {
		if d.ID == o.ID {
			decided[d.Seq] = d
		}
	}
	intents := w.store.intents[o.ID]
	state, lines := Pending, intents[0].Lines
	var hold time.Time
	adopted, repaired := w.store.adopted[o.ID]
	if repaired {
		state, lines, hold = adopted.State, adopted.Lines, adopted.HoldExpiresAt
	}
	for _, in := range intents {
		if in.end == nil || in.end.Outcome == OutcomeSuperseded || in.Seq < adopted.Seq {
			continue
		}
		d, ok := decided[in.Seq]
		var rejection problem.Code
		if d.rejection != nil {
			rejection = d.rejection.Code
		}
		givenUp := in.Operation == GiveUpOperation
		switch {
		case !ok:
			w.Fatalf("operation %d of %s ended %+v, and inventory never decided it", in.Seq, o.ID, in.end)
		case givenUp && (rejection != "" || in.end.Outcome != OutcomeRejected || in.end.Problem.Code != problem.GivenUp),
			!givenUp && (in.end.Outcome == OutcomeDone) != (rejection == ""),
			!givenUp && rejection != "" && (in.end.Problem.Code != rejection || !slices.Equal(in.end.Problem.Shortages, d.rejection.Shortages)):
			w.Fatalf("operation %d of %s ended %+v, inventory decided %q", in.Seq, o.ID, in.end, rejection)
		}
		switch {
		case givenUp, in.Operation == PlaceOperation && rejection != "":
			state = Rejected
		case in.Operation == CancelOperation:
			state = Cancelled
		case in.Operation == ConfirmOperation && rejection == "":
			state = Confirmed
		case rejection == problem.ReservationExpired:
			state = Expired
		case rejection == "":
			state, lines, hold = Placed, in.Lines, d.expires
		}
	}
	if o.State == Expired && state == Placed && !w.now.Before(hold) {
		state = Expired // marked, or learnt with the outcome
	}
	sum, _ := total(lines)
	if o.State != state || !slices.Equal(o.Lines, lines) || o.Total != sum {
		w.Fatalf("order %s is\n%+v, and by what ended it would be %s with %v", o.ID, o, state, lines)
	}
}

// calmDown stops the faults: everybody finishes, what is late arrives, and one
// round of the settler leaves no intent.
func (w *world) calmDown() {
	for len(w.tasks) > 0 {
		w.arrive()
		w.quietly()
	}
	for {
		o := w.some(func(o Order) bool { return o.Intent != nil })
		if o == nil {
			break
		}
		s := rapid.SampledFrom([]*Settler{w.patient, w.eager}).Draw(w.T, "settler")
		w.finish(w.spawn("settler", func(ctx context.Context, _ *task) { s.resend(ctx, *o) }))
		if again := w.store.orders[o.ID]; again.Intent != nil {
			w.Fatalf("nothing is wrong any more, and %s has not settled: %+v", o.ID, again)
		}
		w.arrive()
		w.invariants()
	}
	w.now = w.now.Add(time.Hour)
	for _, id := range slices.Sorted(maps.Keys(w.store.orders)) {
		if o, _ := w.store.find(id); o.State == Placed {
			w.finish(w.spawn("settler", func(ctx context.Context, _ *task) { w.patient.markExpired(ctx, o) }))
		}
	}
	// Whatever still comes is too late.
	settled := maps.Clone(w.store.orders)
	for _, r := range w.late {
		_, _ = w.wire.warehouse.put(r)
	}
	w.invariants()
	left := maps.Clone(w.stocked)
	for id, o := range w.store.orders {
		if !reflect.DeepEqual(o, settled[id]) || o.State == Pending || o.State == Placed {
			w.Fatalf("in the end %s is %+v", id, o)
		}
		if o.State == Confirmed {
			for _, l := range o.Lines {
				left[shelf{l.Location, l.SKU}] -= l.Quantity
			}
		}
	}
	w.wire.expire()
	for at, n := range left {
		if w.wire.onHand[at] != n || w.wire.available(at, nil) != n {
			w.Fatalf("in the end %v has %d on hand, %d available; by the orders it is %d", at, w.wire.onHand[at], w.wire.available(at, nil), n)
		}
	}
}
