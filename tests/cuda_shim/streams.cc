/*
 * One thread runs the work of all streams: an item at a time, of a stream chosen at random among
 * those that may go on. So kernels never run at the same time, but in any order that the streams
 * allow.
 */
#include "streams.h"

#include <algorithm>

namespace shim
{
namespace
{

using std::chrono::microseconds;
using std::chrono::milliseconds;

using Access = std::unique_ptr<shim_access>;

constexpr microseconds kPollEvery(200);
/* Long enough that a wait which is missing shows. */
constexpr milliseconds kByItselfAfter(5);

uint64_t draw(Streams &s)
{
	s.random ^= s.random << 13;
	s.random ^= s.random >> 7;
	s.random ^= s.random << 17;
	return s.random;
}

uint64_t first_left(const CUstream_st &stream)
{
	return stream.queue.empty() ? UINT64_MAX : stream.queue.front().seq;
}

/* The default stream waits for what was put before on the others, and they for it. */
bool in_turn(const Streams &s, const CUstream_st &stream, uint64_t seq)
{
	if (!stream.with_default)
		return true;
	for (const auto &other : s.all)
		if (other.get() != &stream && other->with_default &&
			other->device == stream.device &&
			(other->is_default || stream.is_default) && first_left(*other) < seq)
			return false;
	return true;
}

bool may_run(const Streams &s, const CUstream_st &stream, Clock::time_point now)
{
	if (stream.queue.empty())
		return false;
	if (shim_lost())
		return true; /* to be dropped */
	if (now < stream.again)
		return false;
	const ShimItem &head = stream.queue.front();

	if (settings().lazy && head.seq > stream.wanted)
		return false;
	return reached(head.after) && in_turn(s, stream, head.seq);
}

/* Wants what comes by itself and is old enough; returns when to look again. */
Clock::time_point want_by_itself(Streams &s, Clock::time_point now)
{
	Clock::time_point next = now + std::chrono::hours(1);

	for (size_t i = 0; i < s.all.size(); i++) {
		auto stream = s.all[i];

		if (now < stream->again)
			next = std::min(next, stream->again);
		if (!settings().lazy)
			continue;
		for (const ShimItem &item : stream->queue) {
			if (!item.by_itself || item.seq <= stream->wanted)
				continue;
			if (item.since + kByItselfAfter <= now)
				want(s, {stream, item.seq});
			else
				next = std::min(next, item.since + kByItselfAfter);
		}
	}
	return next;
}

bool polls(const Streams &s, Clock::time_point now)
{
	return std::any_of(s.all.begin(), s.all.end(),
		[&](const std::shared_ptr<CUstream_st> &stream) { return now < stream->again; });
}

std::shared_ptr<CUstream_st> choose(Streams &s, Clock::time_point now)
{
	std::shared_ptr<CUstream_st> chosen;
	unsigned n = 0;

	for (const auto &stream : s.all)
		if (may_run(s, *stream, now) && draw(s) % ++n == 0)
			chosen = stream;
	return chosen;
}

/* Device memory stays accessible from item to item, until nothing can run. */
bool run_item(const ShimItem &item, Access &access)
{
	if (shim_lost())
		return true;
	if (!item.of_host) {
		if (!access)
			access = std::make_unique<shim_access>();
		return item.run();
	}
	access.reset();
	in_host_function = true;
	item.run();
	in_host_function = false;
	return true;
}

void forget_finished(Streams &s)
{
	s.all.erase(std::remove_if(s.all.begin(), s.all.end(),
			    [&](const std::shared_ptr<CUstream_st> &stream) {
				    return stream->queue.empty() && !stream->is_default &&
					   !s.known.count(stream.get());
			    }),
		s.all.end());
}

void run_one(Streams &s, std::unique_lock<std::mutex> &lock, CUstream_st &stream, Access &access)
{
	ShimItem &item = stream.queue.front(); /* stays where it is while others are added */
	bool done;

	lock.unlock();
	done = run_item(item, access);
	lock.lock();
	if (!done) {
		stream.again = Clock::now() + kPollEvery;
		return;
	}
	stream.completed = item.seq;

	ShimItem gone = std::move(item);

	stream.queue.pop_front();
	s.progress.notify_all();
	if (stream.queue.empty())
		forget_finished(s);
	/* What it holds may be the last of something that calls back in here. */
	lock.unlock();
	gone = {};
	lock.lock();
}

void run_streams(Streams &s)
{
	std::unique_lock<std::mutex> lock(s.mutex);
	Access access;

	while (!s.stop) {
		auto now = Clock::now();
		auto next = want_by_itself(s, now);

		if (auto stream = choose(s, now)) {
			run_one(s, lock, *stream, access);
			continue;
		}
		/* Opening and closing takes too long for each call of a poll. */
		if (settings().lazy || !polls(s, now))
			access.reset();
		s.work.wait_until(lock, next);
	}
}

/* The thread must not outlive the process's end, which it would disturb. */
struct Stopper {
	~Stopper()
	{
		Streams &s = streams();

		if (!s.started)
			return;
		{
			std::lock_guard<std::mutex> lock(s.mutex);

			s.stop = true;
		}
		s.work.notify_all();
		if (s.thread.get_id() == std::this_thread::get_id())
			s.thread.detach();
		else
			s.thread.join();
	}
} stopper;

} // namespace

Streams &streams()
{
	static Streams *s = new Streams();

	return *s;
}

std::shared_ptr<CUstream_st> find_stream(Streams &s, cudaStream_t stream)
{
	if (stream) {
		auto found = s.known.find(stream);

		return found == s.known.end() ? nullptr : found->second;
	}
	auto &made = s.defaults[current_device()];

	if (!made) {
		made = std::make_shared<CUstream_st>();
		made->device = current_device();
		made->with_default = made->is_default = true;
		s.all.push_back(made);
	}
	return made;
}

ShimPoint add(Streams &s, const std::shared_ptr<CUstream_st> &stream, ShimItem item)
{
	if (!s.started) {
		s.started = true;
		s.random = settings().seed * 0x9e3779b97f4a7c15 | 1;
		s.thread = std::thread([&s] { run_streams(s); });
	}
	item.seq = ++s.seq;
	item.since = Clock::now();
	stream->last = item.seq;
	stream->queue.push_back(std::move(item));
	s.work.notify_all();
	return {stream, stream->last};
}

bool reached(const ShimPoint &point)
{
	return !point.stream || point.stream->completed >= point.seq;
}

void want(Streams &s, const ShimPoint &point)
{
	auto &stream = point.stream;

	if (!stream || stream->wanted >= point.seq)
		return;
	stream->wanted = point.seq;
	for (const ShimItem &item : stream->queue)
		if (item.seq <= point.seq)
			want(s, item.after);
	if (!stream->with_default)
		return;
	for (size_t i = 0; i < s.all.size(); i++) {
		auto other = s.all[i];

		if (other->with_default && other->device == stream->device &&
			(other->is_default || stream->is_default))
			want(s, {other, std::min(point.seq, other->last)});
	}
}

void wait_for(Streams &s, std::unique_lock<std::mutex> &lock, const ShimPoint &point)
{
	want(s, point);
	s.work.notify_all();
	s.progress.wait(lock, [&] { return reached(point); });
}

void drain(int device)
{
	Streams &s = streams();
	std::unique_lock<std::mutex> lock(s.mutex);
	auto all = s.all;

	for (const auto &stream : all)
		if (device < 0 || stream->device == device)
			wait_for(s, lock, {stream, stream->last});
}

void wake()
{
	Streams &s = streams();
	std::lock_guard<std::mutex> lock(s.mutex);

	s.work.notify_all();
}

} // namespace shim

using namespace shim;

static bool enqueue(cudaStream_t stream, std::function<bool()> run, bool by_itself)
{
	if (in_host_function)
		return false;

	Streams &s = streams();
	std::lock_guard<std::mutex> lock(s.mutex);
	auto found = find_stream(s, stream);

	if (found)
		add(s, found, {0, std::move(run), {}, by_itself, false, {}});
	return found != nullptr;
}

bool shim_enqueue(cudaStream_t stream, std::function<void()> work)
{
	return enqueue(
		stream,
		[work] {
			work();
			return true;
		},
		false);
}

bool shim_enqueue_poll(cudaStream_t stream, std::function<bool()> poll)
{
	return enqueue(stream, std::move(poll), true);
}

int shim_stream_device(cudaStream_t stream)
{
	Streams &s = streams();
	std::lock_guard<std::mutex> lock(s.mutex);
	auto found = find_stream(s, stream);

	return found ? found->device : -1;
}

void shim_wait(cudaStream_t stream)
{
	Streams &s = streams();
	std::unique_lock<std::mutex> lock(s.mutex);
	auto found = find_stream(s, stream);

	if (found)
		wait_for(s, lock, {found, found->last});
}
