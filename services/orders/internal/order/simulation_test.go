package order

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"pgregory.net/rapid"

	"roundtrip/internal/problem"
)

// simulation is one random history. Callers and settlers work on a few orders, each
// in a task with its own goroutine. A task stops at each point where a commit, a read or
// a message could fail, and the scheduler decides how it continues. Only one task runs at
// a time, so a history depends only on what was drawn.
type simulation struct {
	*rapid.T
	now         time.Time
	store       *fakeStore
	client      *fakeClient
	unreachable atomic.Bool
	protocol    *Protocol
	// retryingSettler never gives up a place; givingUpSettler always does.
	retryingSettler, givingUpSettler *Settler

	tasks        []*task    // the tasks that are stopped
	stopped      chan *task // receives a task that has stopped or ended
	lateRequests []Request  // requests that may still arrive
	// alarms are the reasons of alarms. alarmingAnswers counts the answers that may
	// raise one.
	alarms          []string
	alarmingAnswers int
	// rejections has the problem that each rejected place was answered with.
	rejections   map[string]*problem.Problem
	initialStock map[levelKey]int64
	// diverged is true from the restore of a backup to the end of the repair.
	// Meanwhile only the rules of single writes are checked.
	diverged bool
}

// task is a running caller, settler or repair.
type task struct {
	what   string
	where  point
	reply  Reservation // the reply, at gotReply
	resume chan move
	cancel context.CancelFunc
	ended  bool
	panic  any
	// check compares the answer with the store. It is nil until there is an answer.
	check func()
}

// A task stops at a point, and continues with a move.
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

	proceed   move = "continues"
	fail      move = "fails" // a commit or a read; after a commit its result is unknown
	lose      move = "is lost"
	delay     move = "is lost, and arrives later"
	duplicate move = "arrives, and again later"
	forbid    move = "is refused"
	garble    move = "is answered with garbage"
	misdirect move = "gets the answer to another request"
	crash     move = "crashes"
)

// faults are what can go wrong at each point.
var faults = map[point][]move{
	beforeCommit: {fail, crash},
	afterCommit:  {fail, crash},
	beforeRead:   {fail, crash},
	beforeSend:   {lose, delay, duplicate, forbid, garble, crash},
	gotReply:     {lose, lose, misdirect, crash},
}

type taskKey struct{}

func (sim *simulation) actions() []func() {
	return []func(){
		sim.startCall, sim.startCall, sim.startCall, sim.finishOne, sim.finishOne, sim.step, sim.step, sim.step, sim.step, sim.step,
		sim.fault, sim.fault, sim.hangUp, sim.deliverLate, sim.advance, sim.startResend, sim.startResend, sim.startMarkExpired,
	}
}

// play runs up to most random actions.
func (sim *simulation) play(what string, most int, actions []func()) {
	for range rapid.IntRange(1, most).Draw(sim.T, what) {
		rapid.SampledFrom(actions).Draw(sim.T, "action")()
		sim.checkInvariants()
	}
}

func newSimulation(t *rapid.T) *simulation {
	sim := &simulation{T: t, now: start, stopped: make(chan *task), rejections: map[string]*problem.Problem{}}
	clock := func() time.Time { return sim.now }
	sim.store = newFakeStore(clock)
	sim.client = &fakeClient{fakeInventory: newFakeInventory(clock, map[string]int64{"a": 8, "b": 3})}
	sim.initialStock = maps.Clone(sim.client.onHand)

	sim.store.before.set(func(ctx context.Context, _ Command) error { return sim.storeFault(ctx, beforeCommit) })
	sim.store.after.set(func(ctx context.Context, _ Command) error { return sim.storeFault(ctx, afterCommit) })
	sim.store.read.set(func(ctx context.Context) error { return sim.storeFault(ctx, beforeRead) })
	sim.client.onPut.set(sim.onPut)
	sim.client.onGet.set(sim.onGet)
	sim.protocol = NewProtocol(sim.store, sim.client, sim.unreachable.Load, func(reason string) { sim.alarms = append(sim.alarms, reason) })
	sim.retryingSettler = NewSettler(sim.protocol, time.Second, 1<<62, discardLogger())
	sim.givingUpSettler = NewSettler(sim.protocol, time.Second, -1<<62, discardLogger())
	return sim
}

// spawn starts a task and waits until it stops.
func (sim *simulation) spawn(what string, run func(ctx context.Context, t *task)) *task {
	t := &task{what: what, resume: make(chan move)}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), taskKey{}, t))
	t.cancel = cancel
	go func() {
		defer func() {
			t.panic, t.ended = recover(), true
			sim.stopped <- t
		}()
		run(ctx, t)
	}()
	sim.await()
	return t
}

// await waits until the running task stops or ends.
func (sim *simulation) await() {
	t := <-sim.stopped
	if !t.ended {
		sim.tasks = append(sim.tasks, t)
		return
	}
	t.cancel()
	if t.panic != nil {
		sim.Fatalf("%s: panic: %v", t.what, t.panic)
	}
	if t.check != nil && !sim.diverged {
		t.check()
	}
}

// stop stops a task until the scheduler resumes it with a move.
func (sim *simulation) stop(ctx context.Context, where point) move {
	t := ctx.Value(taskKey{}).(*task)
	t.where = where
	sim.stopped <- t
	m := <-t.resume
	if m == crash {
		runtime.Goexit()
	}
	return m
}

// resume resumes the i-th task until it stops again.
func (sim *simulation) resume(i int, m move) {
	t := sim.tasks[i]
	sim.tasks = slices.Delete(sim.tasks, i, i+1)
	t.resume <- m
	sim.await()
}

// crashAll crashes every task.
func (sim *simulation) crashAll() {
	for len(sim.tasks) > 0 {
		t := sim.tasks[0]
		sim.tasks = sim.tasks[1:]
		t.resume <- crash
		<-sim.stopped
		t.cancel()
	}
}

func (sim *simulation) storeFault(ctx context.Context, at point) error {
	if sim.stop(ctx, at) == fail {
		return problem.New(problem.Unavailable, "The database is unavailable.")
	}
	return nil
}

// onPut checks that the request is the one that the intent recorded, and injects
// faults.
func (sim *simulation) onPut(ctx context.Context, r Request, deliver func() (Reservation, error)) (Reservation, error) {
	list := sim.store.intents[r.ID]
	if r.Seq < 1 || r.Seq > int64(len(list)) {
		return Reservation{}, sim.reportViolation("%+v is sent but not recorded", r)
	}
	written := request(Order{ID: r.ID, HoldSeconds: sim.store.orders[r.ID].HoldSeconds, Intent: &list[r.Seq-1].Intent})
	if !reflect.DeepEqual(r, written) {
		return Reservation{}, sim.reportViolation("%+v is sent, and the recorded request is %+v", r, written)
	}
	t := ctx.Value(taskKey{}).(*task)
	switch sim.stop(ctx, beforeSend) {
	case delay:
		sim.lateRequests = append(sim.lateRequests, r)
		return Reservation{}, connectionLost()
	case lose:
		return Reservation{}, connectionLost()
	case forbid:
		sim.alarmingAnswers++
		return Reservation{}, problem.New(problem.Forbidden, "")
	case garble:
		sim.alarmingAnswers++
		return Reservation{}, problem.Wrap(ErrUnexplained, problem.Unavailable, "")
	case duplicate:
		sim.lateRequests = append(sim.lateRequests, r)
	}
	answer, err := deliver()
	t.reply = answer
	switch sim.stop(ctx, gotReply) {
	case lose:
		return Reservation{}, connectionLost()
	case misdirect:
		sim.alarmingAnswers++
		return misdirected(r, answer, err)
	}
	return answer, err
}

// misdirected turns an answer into one for another order or seq.
func misdirected(r Request, answer Reservation, err error) (Reservation, error) {
	if err == nil {
		answer.Seq += 1 - 2*(r.Seq%2)
		return answer, nil
	}
	p := *problem.From(err)
	p.Current = &problem.Current{ID: r.ID + "x", Seq: r.Seq, State: string(ReservationHeld)}
	return Reservation{}, &p
}

func (sim *simulation) onGet(ctx context.Context, _ string, deliver func() (Reservation, error)) (Reservation, error) {
	if sim.stop(ctx, beforeSend) != proceed {
		return Reservation{}, connectionLost()
	}
	r, err := deliver()
	switch sim.stop(ctx, gotReply) {
	case lose:
		return Reservation{}, connectionLost()
	case misdirect:
		r.ID += "x"
	}
	return r, err
}

// reportViolation records a broken rule; the next check fails the test.
func (sim *simulation) reportViolation(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	sim.store.violations = append(sim.store.violations, err)
	return err
}

// step resumes one task without a fault; fault resumes one with a fault.
func (sim *simulation) step() {
	if len(sim.tasks) > 0 {
		sim.resume(rapid.IntRange(0, len(sim.tasks)-1).Draw(sim.T, "task"), proceed)
	}
}

func (sim *simulation) fault() {
	if len(sim.tasks) > 0 {
		i := rapid.IntRange(0, len(sim.tasks)-1).Draw(sim.T, "task")
		sim.resume(i, rapid.SampledFrom(faults[sim.tasks[i].where]).Draw(sim.T, "fault"))
	}
}

// finishOne runs one task to its end without a fault.
func (sim *simulation) finishOne() {
	if len(sim.tasks) > 0 {
		sim.finish(sim.tasks[rapid.IntRange(0, len(sim.tasks)-1).Draw(sim.T, "task")])
	}
}

func (sim *simulation) finish(t *task) {
	for !t.ended {
		sim.resume(slices.Index(sim.tasks, t), proceed)
		sim.checkInvariants()
	}
}

func (sim *simulation) hangUp() {
	if len(sim.tasks) > 0 {
		sim.tasks[rapid.IntRange(0, len(sim.tasks)-1).Draw(sim.T, "task")].cancel()
	}
}

// deliverLate delivers a request that was delayed. No caller gets the answer.
func (sim *simulation) deliverLate() {
	if len(sim.lateRequests) > 0 {
		i := rapid.IntRange(0, len(sim.lateRequests)-1).Draw(sim.T, "late")
		r := sim.lateRequests[i]
		if rapid.Bool().Draw(sim.T, "for the last time") {
			sim.lateRequests = slices.Delete(sim.lateRequests, i, i+1)
		}
		_, _ = sim.client.fakeInventory.put(r)
	}
}

func (sim *simulation) advance() {
	sim.now = sim.now.Add(time.Duration(rapid.SampledFrom([]int{1, 500, 1000, 3000}).Draw(sim.T, "ms")) * time.Millisecond)
}

// startResend starts a settler on an order with an intent.
func (sim *simulation) startResend() {
	s, o := sim.retryingSettler, sim.drawOrder(func(o Order) bool { return o.Intent != nil })
	if o == nil {
		return
	}
	if rapid.IntRange(0, 3).Draw(sim.T, "too old") == 0 {
		s = sim.givingUpSettler
	}
	sim.spawn("settler", func(ctx context.Context, _ *task) { s.resend(ctx, *o) })
}

// startMarkExpired starts a settler on a placed order, whether or not its hold has
// expired.
func (sim *simulation) startMarkExpired() {
	if o := sim.drawOrder(func(o Order) bool { return o.State == Placed && o.Intent == nil }); o != nil {
		sim.spawn("settler", func(ctx context.Context, _ *task) { sim.retryingSettler.markExpired(ctx, *o) })
	}
}

// drawOrder draws one of the orders for which due is true, or returns nil.
func (sim *simulation) drawOrder(due func(Order) bool) *Order {
	var list []Order
	for _, id := range slices.Sorted(maps.Keys(sim.store.orders)) {
		if o, _ := sim.store.find(id); due(o) {
			list = append(list, o)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return &list[rapid.IntRange(0, len(list)-1).Draw(sim.T, "order")]
}

// startCall starts a caller with a random operation.
func (sim *simulation) startCall() {
	id := rapid.SampledFrom([]string{"o1", "o2", "o3"}).Draw(sim.T, "id")
	match := sim.precondition(id)
	sim.unreachable.Store(rapid.IntRange(0, 9).Draw(sim.T, "away") == 9)
	switch rapid.SampledFrom([]Operation{
		PlaceOperation, PlaceOperation, AmendOperation, AmendOperation, ConfirmOperation, CancelOperation,
	}).Draw(sim.T, "operation") {
	case PlaceOperation:
		c := Place{ID: id, Customer: "Ada", Currency: "GBP", HoldSeconds: 4, Lines: lines(0)}
		switch rapid.IntRange(0, 9).Draw(sim.T, "content") {
		case 0:
			c.Customer = "Bob"
		case 1:
			c.Lines = lines(3) // more than is in stock
		}
		sim.spawn("place", func(ctx context.Context, t *task) {
			answer, err := sim.protocol.Place(ctx, c)
			t.check = func() { sim.checkPlaceAnswer(c, answer, err) }
		})
	case AmendOperation:
		c := Amend{ID: id, Lines: lines(rapid.IntRange(0, 3).Draw(sim.T, "lines")), IfMatch: match}
		sim.spawn("amend", func(ctx context.Context, t *task) {
			answer, err := sim.protocol.Amend(ctx, c)
			t.check = func() { sim.checkChangeAnswer(id, AmendOperation, c.Lines, match, answer, err) }
		})
	case ConfirmOperation:
		sim.spawn("confirm", func(ctx context.Context, t *task) {
			answer, err := sim.protocol.Confirm(ctx, Confirm{id, match})
			t.check = func() { sim.checkChangeAnswer(id, ConfirmOperation, nil, match, answer, err) }
		})
	case CancelOperation:
		sim.spawn("cancel", func(ctx context.Context, t *task) {
			answer, err := sim.protocol.Cancel(ctx, Cancel{id, match})
			t.check = func() { sim.checkChangeAnswer(id, CancelOperation, nil, match, answer, err) }
		})
	}
}

// lines returns the i-th content of an order; the last one is more than is in
// stock.
func lines(i int) []Line {
	line := func(sku string, quantity int64) Line { return Line{sku, MainLocation, quantity, 7} }
	return [][]Line{
		{line("a", 2), line("b", 1)},
		{line("a", 1), line("a", 3)},
		{line("a", 6)},
		{line("a", 1), line("b", 4)},
	}[i]
}

func (sim *simulation) precondition(id string) Precondition {
	switch o := sim.store.orders[id]; rapid.IntRange(0, 5).Draw(sim.T, "if-match") {
	case 0:
		return Precondition{Given: true, Versions: []int64{o.Version}}
	case 1:
		return Precondition{Given: true, Versions: []int64{o.Version - 1}}
	case 2:
		return Precondition{Given: true, Any: true}
	}
	return Precondition{}
}

// startRepair starts a repair of any order, whether or not it differs.
func (sim *simulation) startRepair() {
	id := rapid.SampledFrom(sim.ids()).Draw(sim.T, "id")
	sim.spawn("repair", func(ctx context.Context, _ *task) { _, _ = repair(ctx, sim.store, sim.client, id) })
}

// ids returns all ids that orders or inventory may know.
func (sim *simulation) ids() []string { return []string{"o1", "o2", "o3"} }
