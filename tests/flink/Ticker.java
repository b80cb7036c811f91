import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.util.ratelimit.RateLimiterStrategy;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;

/** Counts for ever, a few numbers a second, so that there is a job to save, drain and cancel. */
public class Ticker {
    public static void main(String[] arguments) throws Exception {
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
        DataGeneratorSource<Long> numbers = new DataGeneratorSource<>(
            number -> number, Long.MAX_VALUE, RateLimiterStrategy.perSecond(50), Types.LONG);
        environment.fromSource(numbers, WatermarkStrategy.noWatermarks(), "numbers")
            .rebalance()
            .map(number -> 2 * number).returns(Types.LONG).name("double")
            .sinkTo(new DiscardingSink<>());
        environment.execute("ticker");
    }
}
